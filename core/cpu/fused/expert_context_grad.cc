#include "core/cpu/fused/expert_context_grad.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "core/cpu/gemm.h"
#include "core/cpu/vector_math.h"
#include "core/ops/fused_gate.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Dense and row-major, of experts or of a weight.
template <typename T>
struct Matrix {
  int64_t rows = 0, columns = 0;
  T* at = nullptr;
};

enum class Of { kAsIs, kTransposed };

// c = op(a) op(b), or added to it.
template <typename T>
void Product(const Matrix<T>& a, Of op_a, const Matrix<T>& b, Of op_b,
             const Matrix<T>& c, bool add = false) {
  GemmArgs<T> g;
  g.transpose_a = op_a == Of::kTransposed;
  g.transpose_b = op_b == Of::kTransposed;
  g.m = c.rows;
  g.n = c.columns;
  g.k = g.transpose_a ? a.rows : a.columns;
  g.a = a.at;
  g.lda = a.columns;
  g.b = b.at;
  g.ldb = b.columns;
  g.beta = add ? 1 : 0;
  g.c = c.at;
  g.ldc = c.columns;
  Gemm(g);
}

// x w^T, as of a linear layer; and what its gradient dy makes of dx and dw.
template <typename T>
void Linear(const Matrix<T>& x, const Matrix<T>& w, const Matrix<T>& y) {
  Product(x, Of::kAsIs, w, Of::kTransposed, y);
}
template <typename T>
void LinearInputGrad(const Matrix<T>& dy, const Matrix<T>& w,
                     const Matrix<T>& dx, bool add) {
  Product(dy, Of::kAsIs, w, Of::kAsIs, dx, add);
}
template <typename T>
void LinearWeightGrad(const Matrix<T>& dy, const Matrix<T>& x,
                      const Matrix<T>& dw) {
  Product(dy, Of::kTransposed, x, Of::kAsIs, dw);
}

// On the calling thread, as ExpertContext.
template <typename T>
class ContextGradKernel {
 public:
  explicit ContextGradKernel(const KernelContext& ctx)
      : ctx_(ctx),
        n_(ctx.in(kContextGrads).dim(0)),
        r_(ctx.in(kContextGrads).dim(1)),
        scale_(static_cast<T>(ctx.attrs().Float("scale"))) {}

  void Run() {
    ReadWeights();
    const Matrix<T> e = w_[kContextEmbedding];
    const Matrix<T> q = OfExperts(), k = OfExperts(), v = OfExperts(),
                    mixed = OfExperts(), context = OfExperts(),
                    value = OfExperts();
    const Matrix<T> share = Take(n_, n_);
    // Forward, as ExpertContext.
    Linear(e, w_[kContextQ], q);
    Linear(e, w_[kContextK], k);
    Linear(e, w_[kContextV], v);
    Linear(q, k, share);
    for (int64_t i = 0; i < n_; ++i) {
      T* const row = share.at + i * n_;
      vec_.softmax(row, scale_, n_, row);
    }
    Product(share, Of::kAsIs, v, Of::kAsIs, mixed);
    Linear(mixed, w_[kContextO], context);
    vec_.add(e.at, context.at, n_ * r_, context.at);
    Linear(context, w_[kContextCrossV], value);

    // Values and keys, to the context.
    const Matrix<T> dcontext = GradOf(0), dkey = GradOf(1), dout = GradOf(2);
    const Matrix<T> dvalue = OfExperts();
    LinearWeightGrad(dout, value, Out(kContextCrossO));
    LinearInputGrad(dout, w_[kContextCrossO], dvalue, /*add=*/false);
    LinearWeightGrad(dvalue, context, Out(kContextCrossV));
    LinearInputGrad(dvalue, w_[kContextCrossV], dcontext, /*add=*/true);
    LinearWeightGrad(dkey, context, Out(kContextCrossK));
    LinearInputGrad(dkey, w_[kContextCrossK], dcontext, /*add=*/true);

    // The context, through attention among experts.
    const Matrix<T> de = Out(kContextEmbedding);
    const Matrix<T> dmixed = OfExperts(), dq = OfExperts(), dk = OfExperts(),
                    dv = OfExperts();
    const Matrix<T> dshare = Take(n_, n_);
    LinearWeightGrad(dcontext, mixed, Out(kContextO));
    LinearInputGrad(dcontext, w_[kContextO], dmixed, /*add=*/false);
    Product(dmixed, Of::kAsIs, v, Of::kTransposed, dshare);
    Product(share, Of::kTransposed, dmixed, Of::kAsIs, dv);
    for (int64_t i = 0; i < n_; ++i) {
      T* const row = dshare.at + i * n_;
      const T* const of = share.at + i * n_;
      vec_.softmax_grad(row, of, vec_.dot(row, of, n_), scale_, n_, row);
    }
    Product(dshare, Of::kAsIs, k, Of::kAsIs, dq);
    Product(dshare, Of::kTransposed, q, Of::kAsIs, dk);

    // The three projections.
    std::copy_n(dcontext.at, n_ * r_, de.at);
    for (const auto& [dy, w] :
         {std::pair{dv, kContextV}, std::pair{dk, kContextK},
          std::pair{dq, kContextQ}}) {
      LinearWeightGrad(dy, e, Out(w));
      LinearInputGrad(dy, w_[w], de, /*add=*/true);
    }
  }

 private:
  Matrix<T> Take(int64_t rows, int64_t columns) const {
    return {rows, columns, ctx_.scratch.template Take<T>(rows * columns)};
  }
  Matrix<T> OfExperts() const { return Take(n_, r_); }

  Matrix<T> Out(int input) const {
    const TensorView& out = ctx_.out(input);
    return {out.dim(0), out.dim(1), out.template as<T>()};
  }

  // A copy of an output's gradient; zeros if there is none.
  Matrix<T> GradOf(int output) const {
    const Matrix<T> grad = OfExperts();
    if (ctx_.has(output)) {
      std::copy_n(ctx_.in(output).template as<T>(), n_ * r_, grad.at);
    } else {
      std::fill_n(grad.at, n_ * r_, T{0});
    }
    return grad;
  }

  // ExpertContext's inputs, as they are or widened.
  void ReadWeights() {
    for (int i = kContextEmbedding; i <= kContextCrossO; ++i) {
      const TensorView& w = ctx_.in(kContextGrads + i);
      if (w.dtype != DType::kBF16) {
        w_[i] = {w.dim(0), w.dim(1), w.template as<T>()};
        continue;
      }
      w_[i] = Take(w.dim(0), w.dim(1));
      std::transform(w.template as<BFloat16>(),
                     w.template as<BFloat16>() + w.num_elements(), w_[i].at,
                     [](BFloat16 x) { return static_cast<T>(Widen(x)); });
    }
  }

  const VectorMath<T>& vec_ = VectorMath<T>::Get();
  const KernelContext& ctx_;
  const int64_t n_, r_;
  const T scale_;
  Matrix<T> w_[kContextCrossO + 1];
};

template <typename T>
absl::Status RunExpertContextGrad(const KernelContext& ctx) {
  ContextGradKernel<T>(ctx).Run();
  return absl::OkStatus();
}

}  // namespace

void RegisterExpertContextGradKernels(KernelRegistry& kernels) {
  kernels.Register(kExpertContextGrad, DType::kF32,
                   RunExpertContextGrad<float>);
  kernels.Register(kExpertContextGrad, DType::kF64,
                   RunExpertContextGrad<double>);
}

}  // namespace strata
