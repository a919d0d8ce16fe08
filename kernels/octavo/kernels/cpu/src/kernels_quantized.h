// The quantised forms' kernels, in a file of their own so that they compile beside the others.
#pragma once

#include "kernels.h"

namespace OCTAVO_ISA {

void product_int8(const octavo::Product& product, int first, int last, octavo::Ahead& ahead);
void product_group4(const octavo::Product& product, int first, int last, octavo::Ahead& ahead);
void product_group4_centred(const octavo::Product& product, int first, int last, octavo::Ahead& ahead);
void product_group5(const octavo::Product& product, int first, int last, octavo::Ahead& ahead);
void product_group5_centred(const octavo::Product& product, int first, int last, octavo::Ahead& ahead);
void product_group6_centred16(const octavo::Product& product, int first, int last, octavo::Ahead& ahead);
void product_group8_centred(const octavo::Product& product, int first, int last, octavo::Ahead& ahead);

void pack_quantized(const octavo::Packing& packing, int first, int last);

}  // namespace OCTAVO_ISA
