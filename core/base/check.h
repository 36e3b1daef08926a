// CHECK: stops the program, with the values, where our own code is wrong.
//
//   CHECK(offset <= size) << "offset " << offset << " of " << size;
//
// For input, files and flags return an absl::Status instead.

#ifndef CORE_BASE_CHECK_H_
#define CORE_BASE_CHECK_H_

#include <sstream>

namespace strata {

// Gathers the message; prints it and aborts when the statement ends.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();

  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

// Gives both arms of CHECK's conditional the type void.
struct CheckVoidify {
  void operator&(std::ostream&) const {}
};

}  // namespace strata

#define CHECK(condition)                              \
  (__builtin_expect(static_cast<bool>(condition), 1)) \
      ? (void)0                                       \
      : ::strata::CheckVoidify() &                    \
            ::strata::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define CHECK_EQ(a, b) CHECK((a) == (b)) << "(" << (a) << " vs " << (b) << ") "
#define CHECK_LT(a, b) CHECK((a) < (b)) << "(" << (a) << " vs " << (b) << ") "
#define CHECK_LE(a, b) CHECK((a) <= (b)) << "(" << (a) << " vs " << (b) << ") "

#endif  // CORE_BASE_CHECK_H_
