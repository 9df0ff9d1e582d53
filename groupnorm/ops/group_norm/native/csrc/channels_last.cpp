// channels_last input of type GN_TYPE: the loops of each activation.
#include "channels_last.h"
#include "layouts.h"

namespace groupnorm {
namespace GN_ISA {

template <> void channels_last<GN_TYPE>(const Problem& p, bool backward) {
  using T = GN_TYPE;
  with_activation(p.activation, [&](auto a) {
    constexpr Activation A = decltype(a)::value;
    if (backward)
      backward_channels_last<T>(p, sum_columns<Gradient<T, A>, T>,
                                write_columns<InputGradient<T, A>, T>);
    else
      forward_channels_last<T>(p, sum_columns<Moment<T>, T>, write_columns<Output<T, A>, T>);
  });
}

}  // namespace GN_ISA
}  // namespace groupnorm
