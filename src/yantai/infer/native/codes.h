// Rows of codes of eight or four bits (adapt/packed.py), and their dot products with vectors.
//
// Knows: how codes and their scales lie in memory. A code is read as a float, or as a whole number
// where the processor multiplies these; from many rows on it becomes bfloat16 (many.h).

#pragma once

#include "bytes.h"
#include "lanes.h"
#include "many.h"
#include "rounded.h"

namespace {

constexpr int FAR = 8192;  // bytes of codes that are asked for before one vector reads them

// Codes of eight or four bits; each BLOCK of columns is summed up before its scale is applied.
template <int BITS>
struct Packed {
    const uint8_t* codes;
    const uint16_t* scales;  // bfloat16
    const float* levels;     // of four bits
    int64_t columns, group;

    template <int WEIGHTS, int ROWS>
    void dots(int64_t from, const float* x, int64_t stride, float out[ROWS][WEIGHTS]) const {
        const int64_t bytes = row_bytes(), groups = columns / group;
        const uint8_t* row = codes + from * bytes;
        const uint16_t* scale = scales + from * groups;
        const Levels table(levels);
        Vec total[ROWS][WEIGHTS] = {};
        for (int64_t block = 0; block < columns / BLOCK; block++) {
            const int64_t first = block * BLOCK, place = first / group;
            Vec part[ROWS][WEIGHTS] = {};
            for (int piece = 0; piece < BLOCK / LANES; piece++) {
                Vec read[WEIGHTS];
                EACH
                for (int w = 0; w < WEIGHTS; w++)
                    read[w] = piece_of<BITS>(row + w * bytes + first * BITS / 8, piece, table);
                EACH
                for (int r = 0; r < ROWS; r++) {
                    const Vec value = load(x + r * stride + first + piece * LANES);
                    EACH
                    for (int w = 0; w < WEIGHTS; w++) part[r][w] += read[w] * value;
                }
            }
            EACH
            for (int w = 0; w < WEIGHTS; w++) {
                __builtin_prefetch(row + (WEIGHTS + w) * bytes + first * BITS / 8);
                const Vec factor = all(one(scale[w * groups + place]));
                EACH
                for (int r = 0; r < ROWS; r++) total[r][w] += factor * part[r][w];
            }
        }
        EACH
        for (int r = 0; r < ROWS; r++) sums<WEIGHTS>(total[r], out[r]);
    }

#ifdef WHOLE_NUMBERS
    // The same with rounded vectors, those from row `first` on.
    template <int WEIGHTS, int ROWS>
    void dots(int64_t from, const Rounded& x, int64_t first, float out[ROWS][WEIGHTS]) const {
        if (group == PIECE)
            pieces<WEIGHTS, ROWS, Scales::ONE>(from, x, first, out);
        else if (group == BLOCK)
            pieces<WEIGHTS, ROWS, Scales::TWO>(from, x, first, out);
        else
            pieces<WEIGHTS, ROWS, Scales::ANY>(from, x, first, out);
    }

    // Scales of a piece: it is a group, it is two, or its group has to be looked for.
    enum class Scales { ONE, TWO, ANY };

    template <int WEIGHTS, int ROWS, Scales HOW>
    void pieces(int64_t from, const Rounded& x, int64_t first, float out[ROWS][WEIGHTS]) const {
        const __m512i table = BITS == 4 ? whole_levels(levels) : __m512i{};
        constexpr int64_t SIZE = HOW == Scales::ONE ? PIECE : HOW == Scales::TWO ? BLOCK : 0;
        const int64_t bytes = row_bytes(), whole = columns / PIECE * PIECE;
        const int64_t groups = columns / (SIZE ? SIZE : group);  // a division takes its time
        const uint8_t* row = codes + from * bytes;
        const uint16_t* scale = scales + from * groups;
        Vec total[ROWS][WEIGHTS] = {};
        if constexpr (ROWS == 1) {  // one behind another, as memory is read ahead
            for (int w = 0; w < WEIGHTS; w++, row += bytes, scale += groups) {
                Vec sum = {};
                Vectors own(x, first);
                int64_t at = 0;
                for (; at < whole; at += PIECE, own.next()) {
                    __builtin_prefetch(row + at * BITS / 8 + FAR);
                    sum += own.times(read<HOW, true>(row, scale, at, table));
                }
                if (HOW != Scales::ONE && at < columns)
                    sum += own.times(read<HOW, false>(row, scale, at, table));
                total[0][w] = sum;
            }
        } else {
            Vectors own[ROWS];
            EACH
            for (int r = 0; r < ROWS; r++) own[r] = Vectors(x, first + r);
            auto add = [&](int64_t at, auto both) {
                Read<HOW> weights[WEIGHTS];
                EACH
                for (int w = 0; w < WEIGHTS; w++) {
                    weights[w] = read<HOW, decltype(both)::value>(row + w * bytes,
                                                                  scale + w * groups, at, table);
                    __builtin_prefetch(row + (WEIGHTS + w) * bytes + at * BITS / 8);
                }
                EACH
                for (int r = 0; r < ROWS; r++) {
                    EACH
                    for (int w = 0; w < WEIGHTS; w++) total[r][w] += own[r].times(weights[w]);
                    own[r].next();
                }
            };
            int64_t at = 0;
            for (; at < whole; at += PIECE) add(at, std::true_type());
            if (HOW != Scales::ONE && at < columns) add(at, std::false_type());
        }
        EACH
        for (int r = 0; r < ROWS; r++) {
            sums<WEIGHTS>(total[r], out[r]);
            if (BITS == 4)
                EACH
                for (int w = 0; w < WEIGHTS; w++) out[r][w] /= STEPS;
        }
    }

    // A piece of a row: whole numbers, and the scales of the lanes that they are added up in. In
    // four bits a half of the lanes is a block; in eight bits the halves of the numbers are blocks,
    // so that they have a scale each.
    template <Scales HOW>
    struct Read {
        Halves codes;
        Vec scale, other;
    };

    // A rounded vector, a piece after the other.
    struct Vectors {
        const int16_t* numbers;
        const float* scale;

        Vectors() = default;
        Vectors(const Rounded& x, int64_t row) : numbers(x.row(row)), scale(x.scales_of(row)) {}

        void next() { numbers += PIECE, scale++; }

        template <Scales HOW>
        Vec times(const Read<HOW>& read) const {
            const __m512i low = numbers_at(numbers), high = numbers_at(numbers + PIECE / 2);
            const Vec own = all(*scale);
            if constexpr (BITS == 4 || HOW == Scales::ONE)
                return own * read.scale * floats(both_dots(read.codes, low, high));
            const __m512i none = _mm512_setzero_si512();
            return own * (read.scale * floats(_mm512_dpwssd_epi32(none, read.codes.first, low)) +
                          read.other * floats(_mm512_dpwssd_epi32(none, read.codes.second, high)));
        }
    };

    // The piece of a row from column `at` on; the last one may have only its first block.
    template <Scales HOW, bool BOTH>
    Read<HOW> read(const uint8_t* row, const uint16_t* own, int64_t at, __m512i table) const {
        const uint8_t* here = row + at * BITS / 8;
        Read<HOW> found;
        if constexpr (BITS == 4)
            found.codes = halves(here, BOTH, table);
        else
            found.codes = halves(reinterpret_cast<const int8_t*>(here), BOTH);
        if constexpr (HOW == Scales::ONE) {
            found.scale = all(one(own[at / PIECE]));
        } else if constexpr (HOW == Scales::TWO && BITS == 4) {
            own += at / BLOCK;
            found.scale = BOTH ? two_scales(own) : all(one(*own));
        } else {
            const int64_t next = BOTH ? at + BLOCK : at;
            const int64_t size = HOW == Scales::TWO ? BLOCK : group;
            found.scale = all(one(own[at / size]));
            found.other = all(one(own[next / size]));
            if constexpr (BITS == 4)
                found.scale = (Vec)_mm512_mask_blend_ps(0xff00, (__m512)found.scale,
                                                        (__m512)found.other);
        }
        return found;
    }

    static Vec floats(__m512i whole) { return (Vec)_mm512_cvtepi32_ps(whole); }
#endif

#ifdef MANY_ROWS
    Rows narrow_rows(int64_t from, int64_t to, Narrow& room) const {
        uint16_t* start = room.room(to - from, columns);
        const Levels table(levels);
        for (int64_t row = from; row < to; row++) {
            const uint8_t* block = codes + row * row_bytes();
            const uint16_t* scale = scales + row * (columns / group);
            uint16_t* out = start + (row - from) * room.width;
            for (int64_t at = 0; at < columns; at += BLOCK, block += BLOCK * BITS / 8) {
                const Vec factor = all(one(scale[at / group]));
                for (int piece = 0; piece < BLOCK / LANES; piece++)
                    store(out + at + piece * LANES, factor * piece_of<BITS>(block, piece, table));
            }
        }
        return {start, room.width};
    }
#endif

    float at(int64_t row, int64_t column) const {
        const uint8_t* block = codes + row * row_bytes() + column / BLOCK * (BLOCK * BITS / 8);
        const float scale = one(scales[row * (columns / group) + column / group]);
        const int64_t place = column % BLOCK;
        if constexpr (BITS == 8) return scale * reinterpret_cast<const int8_t*>(block)[place];
        const uint8_t both = block[place % (BLOCK / 2)];
        return scale * levels[place < BLOCK / 2 ? both & 15 : both >> 4];
    }

    int64_t row_bytes() const { return columns * BITS / 8; }
    const char* bytes_at(int64_t row) const {
        return reinterpret_cast<const char*>(codes) + row * row_bytes();
    }
};

}  // namespace
