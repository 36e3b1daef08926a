// JSON Schema to a byte grammar of the JSON texts that satisfy it.
//
// What is known: type (one or a list), enum, const, anyOf, allOf of one, $ref
// into the schema itself (recursive too); properties, required,
// additionalProperties; items, prefixItems, minItems, maxItems; minLength,
// maxLength; minimum and maximum of an integer, both, at most 1000 apart. What
// only describes (title, description, default, examples, format and the like)
// changes nothing. Anything else is an error that names it, never ignored.
//
// A text of the grammar satisfies the schema; not every text that satisfies the
// schema is in the grammar:
//   - properties come in the order of the schema, and beside named ones there
//     are no others;
//   - white space is at most one space, or a line end and up to 24 spaces,
//     where JSON allows any;
//   - numbers have at most 20 digits before and behind the point and 2 in the
//     exponent; values are nested about 60 deep at most;
//   - enum and const are written without white space.

#ifndef SERVING_SCHEMA_JSON_SCHEMA_H_
#define SERVING_SCHEMA_JSON_SCHEMA_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "serving/schema/byte_grammar.h"

namespace strata {

// `path` is what messages call the schema.
//
// Returns INVALID_ARGUMENT, naming the place, if something is not supported, is
// of a wrong type, or if no text satisfies the schema.
absl::StatusOr<std::shared_ptr<const ByteGrammar>> CompileJsonSchema(
    const nlohmann::ordered_json& schema, const std::string& path);

}  // namespace strata

#endif  // SERVING_SCHEMA_JSON_SCHEMA_H_
