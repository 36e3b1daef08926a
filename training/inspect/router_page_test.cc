#include "training/inspect/router_page.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/inspect/router_inspection.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// One layer of two tiers, two domains, of which one has a hostile name.
RouterInspection Inspection() {
  RouterInspection inspection;
  inspection.model = "runs/<b>&\"x\"";
  inspection.name = "tiny</title>";
  inspection.seq_len = 8;
  inspection.num_shuffles = 20;
  inspection.domains = {{"<script>alert('x')</script>", 2, 16},
                        {"b\xFF", 2, 16}};
  InspectOptions options;
  options.num_shuffles = inspection.num_shuffles;
  const auto add = [&](int64_t layer, int64_t tier, const RowCounts& rows) {
    inspection.gates.push_back(
        InspectGate(layer, tier, {{0, 0, 1, 1}, rows}, {16, 16}, options));
  };
  add(0, 0, {{8, 0, 0}, {8, 0, 0}, {6, 2, 0}, {6, 2, 0}});
  add(0, 1, {{8, 8, 0}, {8, 8, 0}, {8, 8, 0}, {8, 8, 0}});
  add(3, 0, {{0, 0}, {0, 0}, {0, 0}, {0, 0}});
  inspection.tiers = AverageTiers(inspection.gates, inspection.domains);
  inspection.manifest = {{"data_hash", "d00d"},
                         {"weights_hash", "beef"},
                         {"data_sources", {"/home/\xFE<i>"}}};
  return inspection;
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) {
    ++count;
  }
  return count;
}

TEST(EscapeHtmlTest, EscapesWhatIsSpecialAndReplacesWhatIsNoText) {
  EXPECT_EQ(EscapeHtml("a&<b>\"'"), "a&amp;&lt;b&gt;&quot;&#39;");
  EXPECT_EQ(EscapeHtml("caf\xC3\xA9\t\n"), "caf\xC3\xA9\t\n");
  EXPECT_EQ(EscapeHtml(std::string("\0\x1B\x7F", 3)),
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(EscapeHtml("\xFF<"), "\xEF\xBF\xBD&lt;");
}

TEST(RouterPageTest, HasAHeatMapForEachLayerAndTier) {
  const std::string page = RouterPage(Inspection());

  EXPECT_EQ(Count(page, "<figure>"), 3);
  EXPECT_EQ(Count(page, "<h2>Layer "), 2);
  EXPECT_THAT(page, HasSubstr("<h2>Layer 3</h2>"));
  // Expert 0 of the first gate: of a all rows, of b three quarters, so 4/7 of
  // its load is a's, 1.14 times an even share. Expert 1 is b's alone.
  EXPECT_THAT(page, HasSubstr("expert 0: 57.14 % of its load, 1.14 of even, "
                              "16 rows\">57</td>"));
  EXPECT_THAT(page, HasSubstr("<td class=\"p2\" title=\"b\xEF\xBF\xBD, expert "
                              "1: 100.00 % of its load, 2.00 of even, 4 rows\">"
                              "100</td>"));
  EXPECT_THAT(page, HasSubstr("<td class=\"m4\" title=\"&lt;script&gt;"));
  // Experts that got nothing have no shares.
  EXPECT_EQ(Count(page, "<tr class=\"starved\">"), 4);
  EXPECT_EQ(Count(page, ">\xE2\x80\x93</td>"), 8);
}

TEST(RouterPageTest, NeedsNothingElseAndRunsNothing) {
  const std::string page = RouterPage(Inspection());

  for (const char* part : {"<script", "src=", "href=", "url(", "@import",
                           "http:", "https:", "<b>&", "<i>\"", "nan", "inf<"}) {
    EXPECT_THAT(page, Not(HasSubstr(part)));
  }
  EXPECT_THAT(page, AllOf(HasSubstr("prefers-color-scheme:dark"),
                          HasSubstr("<meta charset=\"utf-8\">")));
}

TEST(RouterPageTest, SaysWhatItWasMadeFrom) {
  const std::string page = RouterPage(Inspection());

  EXPECT_THAT(page,
              AllOf(HasSubstr("<title>Router of tiny&lt;/title&gt;"),
                    HasSubstr("runs/&lt;b&gt;&amp;&quot;x&quot;"),
                    HasSubstr("<code>d00d</code>"),
                    HasSubstr("<code>beef</code>"), HasSubstr("20 shuffles")));
  EXPECT_THAT(page, HasSubstr("/home/\xEF\xBF\xBD&lt;i&gt;"));
}

TEST(RouterPageTest, ClosesWhatItOpens) {
  const std::string page = RouterPage(Inspection());

  for (const char* tag :
       {"html",   "head",       "body",  "table",   "thead",   "tbody", "div",
        "figure", "figcaption", "pre",   "details", "summary", "h2",    "p",
        "span",   "style",      "title", "td",      "strong",  "code"}) {
    const std::string name(tag);
    EXPECT_EQ(Count(page, "<" + name + ">") + Count(page, "<" + name + " "),
              Count(page, "</" + name + ">"))
        << tag;
  }
}

}  // namespace
}  // namespace strata
