#include "core/runtime/lanes.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/runtime/kernel.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What kernels do, which know of nothing but their node: the attribute "number"
// is noted, behind the gate of that number if there is one.
struct Log {
  absl::Mutex mutex;
  std::vector<int64_t> numbers;
};
Log* log = nullptr;
absl::Notification* gate = nullptr;

void Note(int64_t number) {
  absl::MutexLock lock(&log->mutex);
  log->numbers.push_back(number);
}

absl::Status NoteNumber(const KernelContext& ctx) {
  Note(ctx.attrs().Int("number"));
  return absl::OkStatus();
}
absl::Status WaitAtGate(const KernelContext& ctx) {
  gate->WaitForNotification();
  return NoteNumber(ctx);
}
absl::Status OpenGate(const KernelContext& ctx) {
  gate->Notify();
  return NoteNumber(ctx);
}
absl::Status Fail(const KernelContext& ctx) {
  return absl::UnavailableError("nobody came");
}

class LanesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    log = &log_;
    gate = &gate_;
  }

  static Node NodeOf(int64_t number, const std::string& group) {
    Node node;
    node.attrs = {{"number", number}, {"group", group}};
    return node;
  }
  void Begin(Kernel kernel, const Node& node) {
    lanes_.Begin({kernel, &node, {}, {}, nullptr});
  }

  Log log_;
  absl::Notification gate_;
  Lanes lanes_;
};

TEST_F(LanesTest, RunANodeBesideItsCaller) {
  const Node node = NodeOf(1, "dp");
  Begin(WaitAtGate, node);
  Note(0);  // It waits meanwhile.
  gate_.Notify();

  EXPECT_THAT(lanes_.Join(node), IsOk());

  EXPECT_THAT(log_.numbers, ElementsAre(0, 1));
}

TEST_F(LanesTest, RunTheNodesOfAGroupInTheirOrder) {
  std::vector<Node> nodes;
  for (int i = 0; i < 20; ++i) nodes.push_back(NodeOf(i, "dp"));
  Begin(WaitAtGate, nodes[0]);
  for (int i = 1; i < 20; ++i) Begin(NoteNumber, nodes[i]);
  gate_.Notify();

  EXPECT_THAT(lanes_.Join(nodes[19]), IsOk());  // And so all before it.

  std::vector<int64_t> order(20);
  for (int i = 0; i < 20; ++i) order[i] = i;
  EXPECT_EQ(log_.numbers, order);
  for (int i = 0; i < 19; ++i) EXPECT_THAT(lanes_.Join(nodes[i]), IsOk());
}

TEST_F(LanesTest, GroupsDoNotWaitForOneAnother) {
  const Node waits = NodeOf(1, "dp");
  const Node opens = NodeOf(2, "ep");
  Begin(WaitAtGate, waits);
  Begin(OpenGate, opens);

  EXPECT_THAT(lanes_.Join(waits), IsOk());
  EXPECT_THAT(lanes_.Join(opens), IsOk());
}

TEST_F(LanesTest, AnErrorIsThatOfItsNode) {
  const Node good = NodeOf(1, "dp"), bad = NodeOf(2, "dp"),
             next = NodeOf(3, "dp");
  Begin(NoteNumber, good);
  Begin(Fail, bad);
  Begin(NoteNumber, next);

  EXPECT_THAT(lanes_.Join(next), IsOk());
  EXPECT_THAT(lanes_.Join(good), IsOk());
  EXPECT_THAT(lanes_.Join(bad), StatusIs(absl::StatusCode::kUnavailable,
                                         HasSubstr("nobody came")));
}

}  // namespace
}  // namespace strata
