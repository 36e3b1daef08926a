// Filters and methods of chat templates that work on text.

#ifndef CORE_TOKENIZER_TEMPLATE_TEXT_FUNCTIONS_H_
#define CORE_TOKENIZER_TEMPLATE_TEXT_FUNCTIONS_H_

#include "core/tokenizer/template_call.h"

namespace strata::template_call {

ValueOr TextCall(const Call& call);  // string, safe
ValueOr TrimCall(const Call& call);  // trim, strip
ValueOr LeftStripCall(const Call& call);
ValueOr RightStripCall(const Call& call);
ValueOr CaseCall(const Call& call);  // upper, lower, capitalize, title
ValueOr ReplaceCall(const Call& call);
ValueOr SplitCall(const Call& call);  // split, rsplit
ValueOr SplitLinesCall(const Call& call);
ValueOr AffixCall(const Call& call);  // startswith, endswith
ValueOr CountCall(const Call& call);
ValueOr FindCall(const Call& call);  // find, rfind
ValueOr IndentCall(const Call& call);
ValueOr JoinCall(const Call& call);
ValueOr JoinByCall(const Call& call);  // join as a method
ValueOr JsonCall(const Call& call);    // tojson

}  // namespace strata::template_call

#endif  // CORE_TOKENIZER_TEMPLATE_TEXT_FUNCTIONS_H_
