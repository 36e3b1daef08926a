// The assignment problem: which row takes which column, for the largest sum.

#ifndef CORE_PARALLEL_ASSIGNMENT_H_
#define CORE_PARALLEL_ASSIGNMENT_H_

#include <vector>

namespace strata {

// Returns the column of each row, a permutation, so that the sum of
// value[row][column] is the largest possible. `value` is square and not empty.
//
// The Hungarian method, with one shortest augmenting path a row: O(n^3) at
// worst.
std::vector<int> BestAssignment(const std::vector<std::vector<int>>& value);

}  // namespace strata

#endif  // CORE_PARALLEL_ASSIGNMENT_H_
