// Compiled once for each instruction set, with OCTAVO_ISA its name.
#include "kernels_quantized.h"

#include "pack_quantized.h"
#include "product_group.h"
#include "product_int8.h"

namespace OCTAVO_ISA {

void product_int8(const Product& p, int first, int last, Ahead& ahead) { product<Int8Form>(p, first, last, ahead); }
void product_group4(const Product& p, int first, int last, Ahead& ahead) { product<GroupForm<octavo::GROUP4>>(p, first, last, ahead); }
void product_group4_centred(const Product& p, int first, int last, Ahead& ahead) {
    product<GroupForm<octavo::GROUP4_CENTRED>>(p, first, last, ahead);
}
void product_group5(const Product& p, int first, int last, Ahead& ahead) { product<GroupForm<octavo::GROUP5>>(p, first, last, ahead); }
void product_group5_centred(const Product& p, int first, int last, Ahead& ahead) {
    product<GroupForm<octavo::GROUP5_CENTRED>>(p, first, last, ahead);
}
void product_group6_centred16(const Product& p, int first, int last, Ahead& ahead) {
    product<GroupForm<octavo::GROUP6_CENTRED16>>(p, first, last, ahead);
}
void product_group8_centred(const Product& p, int first, int last, Ahead& ahead) {
    product<GroupForm<octavo::GROUP8_CENTRED>>(p, first, last, ahead);
}

void pack_quantized(const octavo::Packing& packing, int first, int last) { pack_rows(packing, first, last); }

}  // namespace OCTAVO_ISA
