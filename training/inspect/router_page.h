// A router inspection as a web page: one file that needs no other and no
// script. A heat map for each layer and tier, rows experts, columns domains;
// readable on light and dark screens, on paper and without telling red from
// green.

#ifndef TRAINING_INSPECT_ROUTER_PAGE_H_
#define TRAINING_INSPECT_ROUTER_PAGE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "training/inspect/router_inspection.h"

namespace strata {

std::string RouterPage(const RouterInspection& inspection);

// `text`, which may be any bytes, as text or quoted attribute of a page: what
// is special there is escaped, what is no UTF-8 or controls becomes U+FFFD.
std::string EscapeHtml(absl::string_view text);

}  // namespace strata

#endif  // TRAINING_INSPECT_ROUTER_PAGE_H_
