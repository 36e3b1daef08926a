// Counts what the process asks of the heap and of the kernel: a program that
// links this has malloc and its kin, operator new with them, and mmap replaced
// by ones that count, on all threads.
//
//   AllocationCounter allocations;
//   ASSERT_THAT(program->Run(), IsOk());
//   EXPECT_EQ(allocations.count(), 0) << allocations.first_bytes();
//
// Only for tests, and for glibc, whose own functions do the work. Under
// AddressSanitizer, which replaces malloc itself, only mmap is counted.

#ifndef CORE_TESTING_ALLOCATION_COUNTER_H_
#define CORE_TESTING_ALLOCATION_COUNTER_H_

#include <cstddef>
#include <cstdint>

namespace strata {

// One at a time.
class AllocationCounter {
 public:
  AllocationCounter();  // Counts from now on.
  ~AllocationCounter();

  AllocationCounter(const AllocationCounter&) = delete;
  AllocationCounter& operator=(const AllocationCounter&) = delete;

  int64_t count() const;
  // Of the first one counted, to find it by; 0 if there was none.
  size_t first_bytes() const;
};

}  // namespace strata

#endif  // CORE_TESTING_ALLOCATION_COUNTER_H_
