// Contiguous input of type GN_TYPE: the loops of each activation.
#include "layouts.h"
#include "short_rows.h"

namespace groupnorm {
namespace GN_ISA {

template <> void contiguous<GN_TYPE>(const Problem& p, bool backward) {
  using T = GN_TYPE;
  with_activation(p.activation, [&](auto a) {
    constexpr Activation A = decltype(a)::value;
    if (has_short_rows<T>(p)) {
      if (backward) backward_short_rows<T, A>(p);
      else forward_short_rows<T, A>(p);
    } else if (backward)
      backward_contiguous<T>(p, sum_rows_of<Gradient<T, A>, T>, write_rows_of<InputGradient<T, A>, T>);
    else forward_contiguous<T>(p, write_rows_of<Output<T, A>, T>);
  });
}

}  // namespace GN_ISA
}  // namespace groupnorm
