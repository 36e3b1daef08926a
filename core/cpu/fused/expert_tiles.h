// Experts without copies of rows: from tokens where they lie to the sum of what
// their experts say of them.
//
//   up      a piece is some rows of an expert and some columns of its width:
//           gate and up of these, then SwiGLU on the two tiles --> hidden
//   down    a piece is some columns of d: of all experts' rows, then each
//           token's weighted sum, + shared, + h --> y
//
// So of what experts say there are only as many columns at a time as a piece
// has, and what a token gets is added in the order of its slots, as CombineRows
// does.

#ifndef CORE_CPU_FUSED_EXPERT_TILES_H_
#define CORE_CPU_FUSED_EXPERT_TILES_H_

#include <algorithm>
#include <cstdint>

#include "core/cpu/fused/fused_tiles.h"
#include "core/cpu/vector_math.h"
#include "core/runtime/kernel.h"
#include "core/tensor/tensor.h"

namespace strata {

// What goes through a gate, an up and a down projection.
template <typename T>
struct SwiGluWeights {
  TensorView gate_up;  // [E, 2 width, d] or, of no expert, [2 width, d]
  TensorView down;     // [E, d, width] or [d, width]
  int64_t width = 0;
};

// SwiGLU of a piece: columns [first, first + count) of the hidden rows of
// `x.m` tokens. `matrix` says which of a stack. tiles [m, 2 count].
template <typename T>
void HiddenTile(const TileRowsOf<T>& x, const SwiGluWeights<T>& w,
                int64_t matrix, const T* bias, int64_t first, int64_t count,
                T* hidden, T* tile) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t ld = 2 * count, row = matrix * 2 * w.width + first;
  x.Times(w.gate_up, row, count, tile, ld, /*then=*/row + w.width);
  x.Times(w.gate_up, row + w.width, count, tile + count, ld);
  for (int64_t i = 0; i < x.m; ++i) {
    T* const gate = tile + i * ld;
    T* const up = gate + count;
    if (bias != nullptr) {
      vec.add(gate, bias + first, count, gate);
      vec.add(up, bias + w.width + first, count, up);
    }
    vec.swiglu(gate, up, count, hidden + i * w.width + first);
  }
}

// Columns of a piece of HiddenTile: a few pieces to an expert. Weights pass by
// once for all rows of a tile, so they need not fit into a cache, and each
// piece begins with some that memory does not have ready.
inline int64_t HiddenColumns(int64_t width) {
  return std::clamp<int64_t>(width / 4 / 16 * 16, 16, 64);
}

template <typename T>
struct ExpertTiles {
  const KernelContext& ctx;
  int64_t d = 0, tokens = 0, k = 0, experts = 0;
  const T* x = nullptr;                // [tokens, d], what experts read
  const int32_t* row_token = nullptr;  // [rows], whose row it is
  const int32_t* slot_row = nullptr;   // [tokens, k], -1: none
  const int32_t* offset = nullptr;     // [experts + 1]
  const T* weight = nullptr;           // [tokens, k] or null
  SwiGluWeights<T> routed;
  T* hidden = nullptr;             // [rows, width]
  SwiGluWeights<T> shared;         // Width 0: none.
  T* shared_hidden = nullptr;      // [tokens, shared width]
  const T* h = nullptr;            // [t, d]; y may be it
  const int32_t* index = nullptr;  // [tokens], rows of h; null: as tokens
  T* y = nullptr;                  // [t, d]

  explicit ExpertTiles(const KernelContext& context) : ctx(context) {}

  // With an index, rows that it does not name must be in y.
  void Run() const {
    int64_t num_busy = 0;
    auto* const busy = ctx.scratch.Take<Busy>(experts + 2);
    int32_t piece = 0;
    const int64_t columns = HiddenColumns(routed.width);
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t m = offset[e + 1] - offset[e];
      if (m == 0) continue;
      busy[num_busy++] = {static_cast<int32_t>(e), piece};
      piece += CeilDiv(m, kTileRows) * CeilDiv(routed.width, columns);
    }
    const int64_t num_experts = num_busy;
    const int64_t shared_columns = HiddenColumns(shared.width);
    if (shared.width > 0) {
      busy[num_busy++] = {static_cast<int32_t>(experts), piece};
      piece +=
          CeilDiv(tokens, kTileRows) * CeilDiv(shared.width, shared_columns);
    }
    const int64_t widest = std::max(columns, shared_columns);
    T* const tiles =
        ctx.scratch.Take<T>(ctx.pool.num_threads() * kTileRows * 2 * widest);
    const auto up = [&](int64_t i, int worker) {
      const Busy* const after = std::upper_bound(
          busy, busy + num_busy, i,
          [](int64_t at, const Busy& b) { return at < b.first_piece; });
      const Busy& mine = *(after - 1);
      Up(mine.expert, i - mine.first_piece,
         tiles + worker * kTileRows * 2 * widest);
    };
    ForPieces(ctx.pool, piece, 2 * d * NumHidden(), up);
    Down(busy, num_experts);
  }

 private:
  struct Busy {
    int32_t expert;
    int32_t first_piece;  // Of all; the next one's is where they end.
  };

  // Elements of all hidden rows.
  int64_t NumHidden() const {
    return offset[experts] * routed.width + tokens * shared.width;
  }

  void Up(int64_t e, int64_t piece, T* tile) const {
    const bool is_shared = e == experts;
    const SwiGluWeights<T>& w = is_shared ? shared : routed;
    const int64_t begin = is_shared ? 0 : offset[e];
    const int64_t m = is_shared ? tokens : offset[e + 1] - begin;
    // Neighbours share their part of the weights.
    const int64_t row_pieces = CeilDiv(m, kTileRows);
    const int64_t row = piece % row_pieces * kTileRows;
    const int64_t columns = HiddenColumns(w.width);
    const int64_t first = piece / row_pieces * columns;
    TileRowsOf<T> rows;
    rows.m = std::min(kTileRows, m - row);
    rows.k = rows.lda = d;
    if (is_shared) {
      rows.a = x + row * d;
    } else {
      rows.a = x;
      rows.a_row = row_token + begin + row;
    }
    HiddenTile(rows, w, is_shared ? 0 : e, /*bias=*/static_cast<T*>(nullptr),
               first, std::min(columns, w.width - first),
               (is_shared ? shared_hidden : hidden) + (begin + row) * w.width,
               tile);
  }

  // Columns of a piece: few enough that a piece's rows stay in the second
  // cache, and that there are several pieces.
  int64_t DownColumns(int64_t rows) const {
    const int64_t fits = 131072 / std::max<int64_t>(1, rows) / 16 * 16;
    return std::clamp<int64_t>(std::min(fits, d / 8 / 16 * 16), 16, 64);
  }

  void Down(const Busy* busy, int64_t num_experts) const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    const int64_t rows = offset[experts];
    const int64_t shared_rows = shared.width > 0 ? tokens : 0;
    const int64_t columns = DownColumns(rows + shared_rows);
    const int64_t size = (rows + shared_rows + 1) * columns;
    T* const tiles = ctx.scratch.Take<T>(ctx.pool.num_threads() * size);
    const auto down = [&](int64_t piece, int worker) {
      const int64_t first = piece * columns;
      const int64_t count = std::min(columns, d - first);
      T* const tile = tiles + worker * size;
      T* const of_shared = tile + rows * count;
      T* const sum = of_shared + shared_rows * count;
      for (int64_t b = 0; b < num_experts; ++b) {
        const int64_t e = busy[b].expert;
        TileRowsOf<T> of_expert;
        of_expert.a = hidden + offset[e] * routed.width;
        of_expert.m = offset[e + 1] - offset[e];
        of_expert.k = of_expert.lda = routed.width;
        const bool last = b + 1 == num_experts;
        of_expert.Times(routed.down, e * d + first, count,
                        tile + offset[e] * count, count,
                        last ? -1 : busy[b + 1].expert * d + first);
      }
      if (shared_rows > 0) {
        TileRowsOf<T> of_all;
        of_all.a = shared_hidden;
        of_all.m = tokens;
        of_all.k = of_all.lda = shared.width;
        of_all.Times(shared.down, first, count, of_shared, count);
      }
      for (int64_t i = 0; i < tokens; ++i) {
        std::fill_n(sum, count, T{0});
        for (int64_t s = i * k; s < (i + 1) * k; ++s) {
          if (slot_row[s] < 0) continue;
          vec.axpy(weight != nullptr ? weight[s] : T{1},
                   tile + slot_row[s] * count, count, sum);
        }
        if (shared_rows > 0) vec.add(sum, of_shared + i * count, count, sum);
        const int64_t at = (index != nullptr ? index[i] : i) * d + first;
        vec.add(h + at, sum, count, y + at);
      }
    };
    ForPieces(ctx.pool, CeilDiv(d, columns), d * NumHidden(), down);
  }
};

}  // namespace strata

#endif  // CORE_CPU_FUSED_EXPERT_TILES_H_
