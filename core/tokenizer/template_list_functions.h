// Filters, methods and functions of chat templates that work on lists and
// dictionaries.

#ifndef CORE_TOKENIZER_TEMPLATE_LIST_FUNCTIONS_H_
#define CORE_TOKENIZER_TEMPLATE_LIST_FUNCTIONS_H_

#include "core/tokenizer/template_call.h"
#include "core/tokenizer/template_functions.h"

namespace strata::template_call {

ValueOr ListCall(const Call& call);
ValueOr LengthCall(const Call& call);   // length, count
ValueOr EndCall(const Call& call);      // first, last
ValueOr SortCall(const Call& call);     // sort, dictsort
ValueOr ExtremeCall(const Call& call);  // min, max
ValueOr SumCall(const Call& call);
ValueOr UniqueCall(const Call& call);
ValueOr ReverseCall(const Call& call);
ValueOr SelectCall(const Call& call);  // select, reject, selectattr, rejectattr
ValueOr MapCall(const Call& call);

ValueOr ItemsCall(const Call& call);
ValueOr GetCall(const Call& call);
ValueOr KeysCall(const Call& call);  // keys, values

ValueOr Range(const Args& args, TemplateBudget& budget);

}  // namespace strata::template_call

#endif  // CORE_TOKENIZER_TEMPLATE_LIST_FUNCTIONS_H_
