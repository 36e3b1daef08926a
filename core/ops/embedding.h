// Rows of a table by token id.

#ifndef CORE_OPS_EMBEDDING_H_
#define CORE_OPS_EMBEDDING_H_

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kEmbedding;      // (table, ids) -> rows
extern const OpDef kEmbeddingGrad;  // (drows, ids) -> dtable; attribute vocab

// table [vocab, d], ids [t] I32 in [0, vocab) -> [t, d], of the table's dtype;
// rows of a BF16 table are F32, as activations are.
ValueId Embedding(GraphBuilder& b, ValueId table, ValueId ids);

}  // namespace strata

#endif  // CORE_OPS_EMBEDDING_H_
