// Rows of codes as the numbers that they stand for (adapt/packed.py), in one pass over memory.
//
// Knows: how codes and scales lie. NUMBER is bfloat16 or float; a number is the level times the
// scale, rounded once, as torch makes it.

#include "bytes.h"

namespace {

template <int BITS>
void unpack_row(const uint8_t* codes, const uint16_t* scales, int64_t columns, int64_t group,
                const Levels& table, NUMBER* out) {
    const int64_t blocks = columns / BLOCK, in_group = group / BLOCK;
    for (int64_t block = 0, place = 0; block < blocks; place++) {
        const Vec factor = all(one(scales[place]));
        const int64_t last = std::min(blocks, block + in_group);
        for (; block < last; block++, codes += BLOCK * BITS / 8, out += BLOCK)
            EACH
            for (int piece = 0; piece < BLOCK / LANES; piece++)
                store(out + piece * LANES, factor * piece_of<BITS>(codes, piece, table));
    }
}

}  // namespace

extern "C" void unpack(const uint8_t* codes, const uint16_t* scales, const float* levels,
                       NUMBER* out, int64_t rows, int64_t columns, int64_t group, int64_t bits,
                       int64_t threads) {
    const Levels table(levels);
    const int64_t bytes = columns * bits / 8, groups = columns / group;
#pragma omp parallel for num_threads(threads) if (rows * columns > 65536)
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t* from = codes + row * bytes;
        const uint16_t* own = scales + row * groups;
        if (bits == 8)
            unpack_row<8>(from, own, columns, group, table, out + row * columns);
        else
            unpack_row<4>(from, own, columns, group, table, out + row * columns);
    }
}
