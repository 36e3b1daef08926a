// ICU's data package, empty. Strata uses of ICU what is compiled into its code
// (categories, properties, canonical normalisation); the package of 31 MB has
// the rest: locales, converters, compatibility forms. ICU expects a program to
// bring a package of its own, and looks up nothing in one without entries.

#include <cstdint>

#include "unicode/udata.h"
#include "unicode/utypes.h"

namespace {

struct EmptyPackage {
  uint16_t header_size;
  uint8_t magic1;
  uint8_t magic2;
  UDataInfo info;
  char padding[8];
  uint32_t num_entries;
  uint32_t reserved;
};

}  // namespace

extern "C" {

extern const EmptyPackage U_ICUDATA_ENTRY_POINT;

alignas(16) const EmptyPackage U_ICUDATA_ENTRY_POINT = {
    /*header_size=*/32,
    /*magic1=*/0xDA,
    /*magic2=*/0x27,
    {sizeof(UDataInfo),
     /*reservedWord=*/0, U_IS_BIG_ENDIAN, U_CHARSET_FAMILY, sizeof(UChar),
     /*reservedByte=*/0,
     /*dataFormat=*/{'T', 'o', 'C', 'P'},
     /*formatVersion=*/{1, 0, 0, 0},
     /*dataVersion=*/{0, 0, 0, 0}},
    /*padding=*/{},
    /*num_entries=*/0,
    /*reserved=*/0};

}  // extern "C"
