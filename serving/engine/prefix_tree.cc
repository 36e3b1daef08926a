#include "serving/engine/prefix_tree.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "serving/engine/block_pool.h"

namespace strata {

PrefixTree::PrefixTree(int64_t block_size, BlockPool& pool)
    : block_size_(block_size), pool_(pool), nodes_(1) {}

int PrefixTree::Child(int node, absl::Span<const int32_t> tokens,
                      int64_t i) const {
  const auto part = tokens.subspan(i * block_size_, block_size_);
  const auto it =
      nodes_[node].child.find(std::vector<int32_t>(part.begin(), part.end()));
  return it == nodes_[node].child.end() ? -1 : it->second;
}

void PrefixTree::Touch(int node) {
  Node& n = nodes_[node];
  const bool is_leaf = leaves_.erase({n.last_use, node}) > 0;
  n.last_use = ++clock_;
  if (is_leaf) leaves_.insert({n.last_use, node});
}

std::vector<int32_t> PrefixTree::Match(absl::Span<const int32_t> tokens,
                                       int64_t max_blocks) {
  const int64_t count = std::min<int64_t>(
      max_blocks, static_cast<int64_t>(tokens.size()) / block_size_);
  std::vector<int32_t> blocks;
  int node = 0;
  for (int64_t i = 0; i < count; ++i) {
    node = Child(node, tokens, i);
    if (node < 0) break;
    Touch(node);
    pool_.Share(nodes_[node].block);
    blocks.push_back(nodes_[node].block);
  }
  return blocks;
}

void PrefixTree::Insert(absl::Span<const int32_t> tokens,
                        absl::Span<const int32_t> blocks) {
  const int64_t count =
      std::min<int64_t>(static_cast<int64_t>(blocks.size()),
                        static_cast<int64_t>(tokens.size()) / block_size_);
  int node = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int known = Child(node, tokens, i);
    if (known >= 0) {
      node = known;
      Touch(node);
      continue;
    }
    int id = static_cast<int>(nodes_.size());
    if (free_nodes_.empty()) {
      nodes_.emplace_back();
    } else {
      id = free_nodes_.back();
      free_nodes_.pop_back();
    }
    if (node != 0) leaves_.erase({nodes_[node].last_use, node});
    const auto part = tokens.subspan(i * block_size_, block_size_);
    Node& added = nodes_[id];
    added.parent = node;
    added.block = blocks[i];
    added.last_use = ++clock_;
    added.tokens.assign(part.begin(), part.end());
    nodes_[node].child[added.tokens] = id;
    leaves_.insert({added.last_use, id});
    pool_.Share(added.block);
    ++num_blocks_;
    node = id;
  }
}

bool PrefixTree::Evict() {
  for (const auto& [last_use, id] : leaves_) {
    Node& leaf = nodes_[id];
    if (pool_.holders(leaf.block) > 1) continue;
    pool_.Drop(leaf.block);
    --num_blocks_;
    const int parent = leaf.parent;
    nodes_[parent].child.erase(leaf.tokens);
    leaf = Node();
    free_nodes_.push_back(id);
    leaves_.erase({last_use, id});
    if (parent != 0 && nodes_[parent].child.empty()) {
      leaves_.insert({nodes_[parent].last_use, parent});
    }
    return true;
  }
  return false;
}

}  // namespace strata
