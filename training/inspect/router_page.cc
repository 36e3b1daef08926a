#include "training/inspect/router_page.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "training/data/corpus.h"

namespace strata {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

// A colour for each factor of sqrt(2) between a share and an even one, up to 4
// to either side.
constexpr int kMaxLevel = 4;

constexpr char kStyle[] = R"css(
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--mute:#5a6470;--line:#d5dae0;--bar:#7a8794;
--m4:#1f5fa8;--m3:#5a8fcb;--m2:#97bbe3;--m1:#cfe0f3;--z:#f3f3f1;--p1:#fbdfc4;--p2:#f5b87f;--p3:#e58a3c;--p4:#b85c0a}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e7ea;--mute:#9aa4af;--line:#343b43;--bar:#7f8b97;
--m4:#8cbcf0;--m3:#5b92cf;--m2:#34659c;--m1:#25405f;--z:#262a2f;--p1:#573a1c;--p2:#87541d;--p3:#cf7d2c;--p4:#f7b26b}}
body{background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;max-width:75rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2rem 0 .4rem}
p{max-width:50rem}.mute,caption,figcaption{color:var(--mute)}code{overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .55rem;text-align:right}th{font-weight:600}
th:first-child,td:first-child{text-align:left}
.plain th,.plain td{border-bottom:1px solid var(--line)}
.scroll{overflow-x:auto}
.maps{display:flex;flex-wrap:wrap;gap:1.2rem 2.2rem;align-items:flex-start}
figure{margin:0}figcaption{margin-bottom:.3rem;font-size:.9rem}
.map{font-size:.85rem}.map th{font-weight:400}.map thead th{max-width:7rem;overflow-wrap:anywhere;vertical-align:bottom}
.map td{border:1px solid var(--bg);min-width:2.2rem}.map tr.starved{opacity:.55}
.m4{background:var(--m4);color:#fff}.m3{background:var(--m3);color:#000}.m2{background:var(--m2);color:#000}.m1{background:var(--m1)}
.z{background:var(--z)}.p1{background:var(--p1)}.p2{background:var(--p2);color:#000}.p3{background:var(--p3);color:#000}.p4{background:var(--p4);color:#fff}
@media(prefers-color-scheme:dark){.m4,.p4{color:#000}.m2,.p2{color:#fff}}
@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
.track{display:inline-block;position:relative;width:9rem;height:.75rem;background:var(--z);vertical-align:middle}
.track i{position:absolute;left:0;top:0;bottom:0;background:var(--bar)}
.track b{position:absolute;top:-.15rem;bottom:-.15rem;width:2px;background:var(--fg)}
pre{overflow-x:auto;font-size:.8rem}
)css";

std::string Percent(double share) {
  return absl::StrFormat("%.1f %%", 100 * share);
}

// -kMaxLevel to kMaxLevel.
int LevelOf(double relative_share) {
  if (relative_share <= 0) return -kMaxLevel;
  const double level = std::round(2 * std::log2(relative_share));
  return static_cast<int>(std::clamp<double>(level, -kMaxLevel, kMaxLevel));
}

std::string LevelClass(int level) {
  if (level == 0) return "z";
  return absl::StrCat(level < 0 ? "m" : "p", std::abs(level));
}

std::string Head(const RouterInspection& inspection) {
  const std::string name = EscapeHtml(inspection.name);
  std::string html = absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "\n<title>Router of ",
      name, "</title>\n<style>", kStyle, "</style>\n</head>\n<body>\n");
  absl::StrAppend(&html, "<h1>Router of ", name, "</h1>\n<p class=\"mute\">",
                  EscapeHtml(inspection.model), "</p>\n");
  absl::StrAppend(
      &html, "<p>Data <code>",
      EscapeHtml(inspection.manifest.value("data_hash", "")),
      "</code><br>Weights <code>",
      EscapeHtml(inspection.manifest.value("weights_hash", "")),
      "</code><br>Strata ",
      EscapeHtml(inspection.manifest.value("version", "")), ", commit <code>",
      EscapeHtml(inspection.manifest.value("commit", "")), "</code>, ",
      EscapeHtml(inspection.manifest.value("date", "")), "</p>\n");
  for (const std::string& note : inspection.notes) {
    absl::StrAppend(&html, "<p><strong>", EscapeHtml(note), "</strong></p>\n");
  }
  return html;
}

std::string TierTable(const RouterInspection& inspection) {
  double most = 0;
  for (const InspectedTier& tier : inspection.tiers) {
    most = std::max({most, tier.specialisation.bits, tier.null.upper});
  }
  const double scale = most > 0 ? 100 / most : 0;
  std::string html = absl::StrCat(
      "<h2>What an expert says about the domain</h2>\n"
      "<p>Mutual information between expert and domain, the mean over a tier's "
      "layers, each domain weighing alike: 0 where every domain uses the "
      "experts alike. <em>Corrected</em> takes off the bias of finite samples "
      "(Miller and Madow), as if tokens were independent; <em>chance</em> is "
      "what remains after the domains are dealt out anew among whole windows "
      "of text, mean and 95th percentile of ",
      inspection.num_shuffles,
      " shuffles. Only what lies beyond the second is more than noise.</p>\n"
      "<div class=\"scroll\"><table class=\"plain\"><thead><tr><th>tier</th>"
      "<th>bits</th><th>corrected</th><th>of H(domain)</th><th>at most</th>"
      "<th>by chance</th><th>95 %</th><th>p</th>"
      "<th>bits; mark: 95 % of chance</th><th>starved</th>"
      "</tr></thead>\n<tbody>\n");
  for (const InspectedTier& tier : inspection.tiers) {
    absl::StrAppend(
        &html,
        absl::StrFormat(
            "<tr><td>%d</td><td>%.4f</td><td>%.4f</td><td>%s</td><td>%.4f</td>"
            "<td>%.4f</td><td>%.4f</td><td>%.3f</td><td><span class=\"track\">"
            "<i style=\"width:%.1f%%\"></i><b style=\"left:%.1f%%\"></b></span>"
            "</td><td>%d of %d</td></tr>\n",
            tier.tier + 1, tier.specialisation.bits,
            tier.specialisation.corrected_bits, Percent(tier.normalised),
            tier.bound_bits, tier.null.mean, tier.null.upper, tier.null.p_value,
            scale * tier.specialisation.bits, scale * tier.null.upper,
            tier.num_starved, tier.num_experts));
  }
  return absl::StrCat(html, "</tbody></table></div>\n");
}

std::string ReachTable(const RouterInspection& inspection) {
  std::string html =
      "<h2>Tokens that reach each tier</h2>\n<div class=\"scroll\"><table "
      "class=\"plain\"><thead><tr><th>tier</th>";
  for (const InspectedDomain& domain : inspection.domains) {
    absl::StrAppend(&html, "<th>", EscapeHtml(domain.name), "</th>");
  }
  absl::StrAppend(&html, "</tr></thead>\n<tbody>\n");
  for (const InspectedTier& tier : inspection.tiers) {
    absl::StrAppend(&html, "<tr><td>", tier.tier + 1, "</td>");
    for (const double share : tier.reached) {
      absl::StrAppend(&html, "<td>", Percent(share), "</td>");
    }
    absl::StrAppend(&html, "</tr>\n");
  }
  return absl::StrCat(html, "</tbody></table></div>\n");
}

std::string Legend() {
  std::string html =
      "<h2>Experts by layer and tier</h2>\n<p>A cell is the domain's share of "
      "the expert's load in per cent, each domain weighing alike; a row adds "
      "up to 100. Its colour is that share over an even one. <em>Load</em> is "
      "the expert's over the mean of its gate; a starved expert, below a tenth "
      "of the mean, is pale.</p>\n<table class=\"map\"><caption>share over an "
      "even share</caption><tr>";
  for (int level = -kMaxLevel; level <= kMaxLevel; ++level) {
    absl::StrAppend(&html, "<td class=\"", LevelClass(level), "\">",
                    level == -kMaxLevel  ? "\xE2\x89\xA4 "
                    : level == kMaxLevel ? "\xE2\x89\xA5 "
                                         : "",
                    absl::StrFormat("%.2f", std::exp2(level / 2.0)), "</td>");
  }
  return absl::StrCat(html, "</tr></table>\n");
}

std::string ExpertRow(const RouterInspection& inspection,
                      const InspectedGate& gate, int expert) {
  const ExpertProfile& profile = gate.experts[expert];
  std::string html =
      absl::StrCat("<tr", gate.starved(expert) ? " class=\"starved\"" : "",
                   "><th>", expert, "</th>");
  for (size_t d = 0; d < inspection.domains.size(); ++d) {
    const double share = profile.domain_share[d];
    const double relative = gate.relative_share(expert, static_cast<int>(d));
    // An expert without load has no shares, which is not shares of 0.
    absl::StrAppend(
        &html, "<td class=\"",
        profile.load > 0 ? LevelClass(LevelOf(relative)) : "z", "\" title=\"",
        EscapeHtml(inspection.domains[d].name),
        absl::StrFormat(", expert %d: %.2f %% of its load, %.2f of even, %d "
                        "rows\">",
                        expert, 100 * share, relative, gate.rows[d][expert]),
        profile.load > 0 ? absl::StrFormat("%.0f", 100 * share)
                         : "\xE2\x80\x93",
        "</td>");
  }
  absl::StrAppend(
      &html, absl::StrFormat("<td title=\"%.2f %% of the gate's load\">"
                             "%.2f</td><td>%.3f</td></tr>\n",
                             100 * profile.load, gate.relative_load(expert),
                             profile.bits));
  return html;
}

std::string HeatMap(const RouterInspection& inspection,
                    const InspectedGate& gate) {
  const Specialisation& s = gate.specialisation;
  std::string html = absl::StrFormat(
      "<figure><figcaption><strong>tier %d</strong>: %.4f bits, corrected "
      "%.4f<br>chance %.4f, 95 %% below %.4f, p %.3f</figcaption>\n"
      "<table class=\"map\"><thead><tr><th>expert</th>",
      gate.tier + 1, s.bits, s.corrected_bits, gate.null.mean, gate.null.upper,
      gate.null.p_value);
  for (const InspectedDomain& domain : inspection.domains) {
    absl::StrAppend(&html, "<th>", EscapeHtml(domain.name), "</th>");
  }
  absl::StrAppend(&html, "<th>load</th><th>bits</th></tr></thead>\n<tbody>\n");
  for (size_t e = 0; e < gate.experts.size(); ++e) {
    absl::StrAppend(&html, ExpertRow(inspection, gate, static_cast<int>(e)));
  }
  return absl::StrCat(html, "</tbody></table></figure>\n");
}

std::string Foot(const RouterInspection& inspection) {
  std::string html =
      "<h2>What this was made from</h2>\n<div class=\"scroll\"><table "
      "class=\"plain\"><thead><tr><th>domain</th><th>windows</th><th>tokens"
      "</th></tr></thead>\n<tbody>\n";
  for (const InspectedDomain& domain : inspection.domains) {
    absl::StrAppend(&html, "<tr><td>", EscapeHtml(domain.name), "</td><td>",
                    domain.windows, "</td><td>", domain.tokens, "</td></tr>\n");
  }
  const std::string manifest = inspection.manifest.dump(
      2, ' ', false, nlohmann::json::error_handler_t::replace);
  return absl::StrCat(
      html, "</tbody></table></div>\n<p>Windows of ", inspection.seq_len,
      " tokens.</p>\n<details>"
      "<summary>Manifest</summary><pre>",
      EscapeHtml(manifest), "</pre></details>\n</body>\n</html>\n");
}

}  // namespace

std::string EscapeHtml(absl::string_view text) {
  const bool is_utf8 = IsUtf8(std::string(text));
  std::string html;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '&') {
      html += "&amp;";
    } else if (c == '<') {
      html += "&lt;";
    } else if (c == '>') {
      html += "&gt;";
    } else if (c == '"') {
      html += "&quot;";
    } else if (c == '\'') {
      html += "&#39;";
    } else if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F ||
               (byte >= 0x80 && !is_utf8)) {
      html += kReplacement;
    } else {
      html += c;
    }
  }
  return html;
}

std::string RouterPage(const RouterInspection& inspection) {
  std::string html = absl::StrCat(Head(inspection), TierTable(inspection),
                                  ReachTable(inspection), Legend());
  for (size_t i = 0; i < inspection.gates.size(); ++i) {
    const InspectedGate& gate = inspection.gates[i];
    if (i == 0 || inspection.gates[i - 1].layer != gate.layer) {
      absl::StrAppend(&html, i == 0 ? "" : "</div>\n", "<h2>Layer ", gate.layer,
                      "</h2>\n<div class=\"maps\">\n");
    }
    absl::StrAppend(&html, HeatMap(inspection, gate));
  }
  if (!inspection.gates.empty()) html += "</div>\n";
  return html + Foot(inspection);
}

}  // namespace strata
