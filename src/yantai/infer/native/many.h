// Products of many rows in bfloat16: a weight that is used often costs more than its reading.
//
// A processor that multiplies pairs of bfloat16 does 32 at a time where it does 16 of float32. Sums
// stay float32; the vectors are rounded to bfloat16, as torch rounds them, and codes become the
// nearest bfloat16 numbers. One that has registers for matrices (AMX) multiplies 16 rows by 16 at once. So from MANY rows on a row's result differs by that rounding from what
// it is alone, and from TURNED on by the order of additions.

#pragma once

#include "lanes.h"

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define MANY_ROWS 1

namespace {

constexpr int64_t MANY = 4, MANY_OF_CODES = 8;  // codes must first be made numbers
constexpr int64_t PAIRS = 32;  // columns that are read at once
constexpr int64_t BAND = 32;   // rows of weights that stay in the nearest cache
constexpr int64_t TURNED = 8;  // from so many rows on a band is turned first
constexpr int64_t HALF = 16;   // rows of weights whose products fill a register

inline int64_t padded(int64_t columns) { return (columns + PAIRS - 1) / PAIRS * PAIRS; }

// Rows of numbers in bfloat16, each filled up with zeros to whole registers.
struct Narrow {
    Room<uint16_t> numbers;
    int64_t width = 0;

    uint16_t* room(int64_t rows, int64_t columns) {  // of whole tiles
        width = padded(columns);
        return numbers.of((rows + HALF - 1) / HALF * HALF * width);
    }

    void take(const float* x, int64_t rows, int64_t columns) {
        uint16_t* to = room(rows, columns);
        for (int64_t row = 0; row < rows; row++, to += width, x += columns)
            for (int64_t at = 0; at < width; at += LANES) {
                const int64_t here = std::clamp<int64_t>(columns - at, 0, LANES);
                store(to + at, narrow((Vec)_mm512_maskz_loadu_ps((1u << here) - 1, x + at)));
            }
    }

    const uint16_t* row(int64_t number) const { return numbers.start() + number * width; }
};

inline __m512bh pairs_at(const uint16_t* from, int64_t left) {
    const __mmask32 there = left >= PAIRS ? 0xffffffffu : (1u << left) - 1;
    return (__m512bh)_mm512_maskz_loadu_epi16(there, from);
}

// The products of WEIGHTS rows of weights, `stride` numbers apart, with ROWS vectors.
template <int WEIGHTS, int ROWS>
inline void pair_dots(const uint16_t* weight, int64_t stride, int64_t columns, const Narrow& x,
                      int64_t first, float out[ROWS][WEIGHTS]) {
    __m512 total[ROWS][WEIGHTS] = {};
    for (int64_t at = 0; at < columns; at += PAIRS) {
        __m512bh read[WEIGHTS];
        EACH
        for (int w = 0; w < WEIGHTS; w++)
            read[w] = pairs_at(weight + w * stride + at, columns - at);
        EACH
        for (int r = 0; r < ROWS; r++) {
            const __m512bh value = (__m512bh)_mm512_loadu_si512(x.row(first + r) + at);
            EACH
            for (int w = 0; w < WEIGHTS; w++)
                total[r][w] = _mm512_dpbf16_ps(total[r][w], read[w], value);
        }
    }
    EACH
    for (int r = 0; r < ROWS; r++) {
        Vec whole[WEIGHTS];
        EACH
        for (int w = 0; w < WEIGHTS; w++) whole[w] = (Vec)total[r][w];
        sums<WEIGHTS>(whole, out[r]);
    }
}

// Rows of weights as bfloat16: as they lie in memory, or written there from codes.
struct Rows {
    const uint16_t* weight;
    int64_t stride;
};

template <int WEIGHTS, int ROWS, class Use>
inline int64_t some_of_many(const Rows& rows, int64_t columns, const float* bias, int64_t start,
                            int64_t from, int64_t to, const Narrow& x, int64_t first, Use& use) {
    float out[ROWS][WEIGHTS];
    for (; from + WEIGHTS <= to; from += WEIGHTS) {
        pair_dots<WEIGHTS, ROWS>(rows.weight + (from - start) * rows.stride, rows.stride, columns,
                                 x, first, out);
        EACH
        for (int r = 0; r < ROWS; r++)
            EACH
            for (int w = 0; w < WEIGHTS; w++)
                use(first + r, from + w, out[r][w] + (bias ? bias[from + w] : 0.0f));
    }
    return from;
}

template <int ROWS, class Use>
inline void band_of_many(const Rows& rows, int64_t columns, const float* bias, int64_t start,
                         int64_t stop, const Narrow& x, int64_t first, Use& use) {
    constexpr int WEIGHTS = 4;
    const int64_t from = some_of_many<WEIGHTS, ROWS>(rows, columns, bias, start, start, stop, x,
                                                     first, use);
    some_of_many<1, ROWS>(rows, columns, bias, start, from, stop, x, first, use);
}

// A square of 16 × 16 pairs: rows become columns.
inline void turn_square(__m512i rows[16]) {
    __m512i part[16];
    EACH
    for (int i = 0; i < 16; i += 2) {
        part[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        part[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    EACH
    for (int i = 0; i < 16; i += 4)
        EACH
        for (int j = 0; j < 2; j++) {
            rows[i + 2 * j] = _mm512_unpacklo_epi64(part[i + j], part[i + j + 2]);
            rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(part[i + j], part[i + j + 2]);
        }
    EACH
    for (int i = 0; i < 16; i += 8)
        EACH
        for (int j = 0; j < 4; j++) {
            part[i + j] = _mm512_shuffle_i32x4(rows[i + j], rows[i + j + 4], 0x88);
            part[i + j + 4] = _mm512_shuffle_i32x4(rows[i + j], rows[i + j + 4], 0xdd);
        }
    EACH
    for (int j = 0; j < 8; j++) {
        rows[j] = _mm512_shuffle_i32x4(part[j], part[j + 8], 0x88);
        rows[j + 8] = _mm512_shuffle_i32x4(part[j], part[j + 8], 0xdd);
    }
}

// Rows of weights so that a register holds a pair of columns of HALF rows: rows that are missing
// are zeros.
inline const __m512i* turned(const Rows& rows, int64_t count, int64_t columns,
                             Room<__m512i>& room) {
    const int64_t pairs = padded(columns) / 2, halves = (count + HALF - 1) / HALF;
    __m512i* to = room.of(halves * pairs);
    for (int64_t half = 0; half < halves; half++)
        for (int64_t at = 0; at < columns; at += PAIRS) {
            __m512i square[16];
            for (int64_t row = 0; row < HALF; row++) {
                const int64_t number = half * HALF + row;
                square[row] = number < count ? (__m512i)pairs_at(
                                                   rows.weight + number * rows.stride + at,
                                                   columns - at)
                                             : _mm512_setzero_si512();
            }
            turn_square(square);
            for (int64_t pair = 0; pair < 16; pair++)
                _mm512_store_si512(to + half * pairs + at / 2 + pair, square[pair]);
        }
    return to;
}

// What is read next, asked for a line at a time while there is something to compute: squares are
// read from sixteen places in turn, which no processor reads ahead by itself. Into the second cache:
// the first one holds the band that is being computed.
struct Ahead {
    const char *at = nullptr, *end = nullptr;

    void one() {
        if (at >= end) return;
        __builtin_prefetch(at, 0, 2);
        at += 64;
    }
};

// Outputs of a row that lie side by side: as a register, where there are as many.
template <class Use>
inline void tell(const float* out, const float* bias, int64_t from, int64_t count, int64_t row,
                 Use& use) {
    static_assert(HALF == LANES, "a register of outputs");
    if (count == HALF)
        use(row, from, load(out) + (bias ? load(bias + from) : Vec{}));
    else
        for (int64_t i = 0; i < count; i++)
            use(row, from + i, out[i] + (bias ? bias[from + i] : 0.0f));
}

// Products of a turned band with ROWS vectors: the outputs of a row lie side by side.
template <int ROWS, int HALVES, class Use>
inline void turned_dots(const __m512i* band, int64_t columns, const float* bias, int64_t start,
                        int64_t stop, const Narrow& x, int64_t first, Ahead& ahead, Use& use) {
    const int64_t pairs = padded(columns) / 2;
    __m512 total[ROWS][HALVES] = {};
    for (int64_t pair = 0; pair < (columns + 1) / 2; pair++) {
        ahead.one();
        __m512bh read[HALVES];
        EACH
        for (int h = 0; h < HALVES; h++) read[h] = (__m512bh)band[h * pairs + pair];
        EACH
        for (int r = 0; r < ROWS; r++) {
            int both;
            std::memcpy(&both, x.row(first + r) + 2 * pair, sizeof both);
            const __m512bh value = (__m512bh)_mm512_set1_epi32(both);
            EACH
            for (int h = 0; h < HALVES; h++)
                total[r][h] = _mm512_dpbf16_ps(total[r][h], read[h], value);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int h = 0; h < HALVES; h++) {
            float out[HALF];
            _mm512_storeu_ps(out, total[r][h]);
            const int64_t from = start + h * HALF;
            tell(out, bias, from, std::min(stop - from, HALF), first + r, use);
        }
}

#ifdef __AMX_BF16__

// Whether this process may use the registers for matrices: Linux wants to be asked.
inline bool has_tiles() {
    constexpr long ASK_FOR_PERMISSION = 0x1023, TILE_DATA = 18;
    static const bool granted = syscall(SYS_arch_prctl, ASK_FOR_PERMISSION, TILE_DATA) == 0;
    return granted;
}

// Eight registers of 16 rows of 64 bytes, for as long as it lives.
struct Tiles {
    Tiles() {
        if (!has_tiles()) return;
        struct alignas(64) {
            uint8_t palette = 1, start = 0, none[14] = {};
            uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } form;
        _tile_loadconfig(&form);
    }
    ~Tiles() {
        if (has_tiles()) _tile_release();
    }
};

// Products of a turned band with 16 · BLOCKS vectors: a turned square is a register as it lies there.
// Of `count` vectors the outputs are used.
template <int BLOCKS, int HALVES, class Use>
inline void tiled_dots(const __m512i* band, int64_t columns, const float* bias, int64_t start,
                       int64_t stop, const Narrow& x, int64_t first, int64_t count, Ahead& ahead,
                       Use& use) {
    const int64_t pairs = padded(columns) / 2;
    const uint16_t* rows = x.row(first);
    asm volatile("" ::: "memory");  // what the registers load was written before
    _tile_zero(0);
    if (HALVES > 1) _tile_zero(1);
    if (BLOCKS > 1) _tile_zero(2);
    if (BLOCKS > 1 && HALVES > 1) _tile_zero(3);
    for (int64_t at = 0; at < pairs; at += HALF) {
        for (int line = 0; line < 8 * HALVES; line++) ahead.one();
        _tile_loadd(4, rows + 2 * at, 2 * x.width);
        if (BLOCKS > 1) _tile_loadd(5, rows + HALF * x.width + 2 * at, 2 * x.width);
        _tile_loadd(6, band + at, 64);
        if (HALVES > 1) _tile_loadd(7, band + pairs + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (HALVES > 1) _tile_dpbf16ps(1, 4, 7);
        if (BLOCKS > 1) _tile_dpbf16ps(2, 5, 6);
        if (BLOCKS > 1 && HALVES > 1) _tile_dpbf16ps(3, 5, 7);
    }
    alignas(64) float out[BLOCKS][HALVES][HALF][HALF];
    _tile_stored(0, out[0][0], 64);
    if (HALVES > 1) _tile_stored(1, out[0][HALVES - 1], 64);
    if (BLOCKS > 1) _tile_stored(2, out[BLOCKS - 1][0], 64);
    if (BLOCKS > 1 && HALVES > 1) _tile_stored(3, out[BLOCKS - 1][HALVES - 1], 64);
    for (int64_t r = 0; r < count; r++)
        for (int h = 0; h < HALVES; h++) {
            const float* own = out[r / HALF][h][r % HALF];
            const int64_t from = start + h * HALF, outputs = std::min(stop - from, HALF);
            tell(own, bias, from, outputs, first + r, use);
        }
}

#else

struct Tiles {};

#endif

template <int HALVES, class Use>
inline void turned_band(const __m512i* band, int64_t columns, const float* bias, int64_t start,
                        int64_t stop, const Narrow& x, int64_t rows, Use& use, Ahead ahead = {}) {
    int64_t row = 0;
#ifdef __AMX_BF16__
    if (has_tiles()) {
        for (; row + HALF < rows; row += 2 * HALF)
            tiled_dots<2, HALVES>(band, columns, bias, start, stop, x, row,
                                  std::min(rows - row, 2 * HALF), ahead, use);
        if (row < rows)
            tiled_dots<1, HALVES>(band, columns, bias, start, stop, x, row, rows - row, ahead, use);
        return;
    }
#endif
    for (; row + 8 <= rows; row += 8)
        turned_dots<8, HALVES>(band, columns, bias, start, stop, x, row, ahead, use);
    for (; row + 4 <= rows; row += 4)
        turned_dots<4, HALVES>(band, columns, bias, start, stop, x, row, ahead, use);
    for (; row < rows; row++)
        turned_dots<1, HALVES>(band, columns, bias, start, stop, x, row, ahead, use);
}

// One a thread: products do not stand in each other.
struct Buffers {
    Narrow vectors, band;
    Room<__m512i> squares;
};

inline Buffers& own_buffers() {
    thread_local Buffers buffers;
    return buffers;
}

// Outputs [from, to) of y = W·x + b for each of many rows; `turns` a band of weights however many
// they are, so that the order of additions is always the same.
template <class Weights, class Use>
inline void product_of_many(const Weights& weights, const float* bias, int64_t from, int64_t to,
                            const float* x, int64_t rows, int64_t columns, bool turns, Use& use) {
    Buffers& own = own_buffers();
    Narrow &vectors = own.vectors, &band = own.band;
    vectors.take(x, rows, columns);
    for (int64_t start = from; start < to; start += BAND) {
        const int64_t stop = std::min(start + BAND, to);
        const Rows here = weights.narrow_rows(start, stop, band);
        if (turns || rows >= TURNED) {
            const __m512i* whole = turned(here, stop - start, columns, own.squares);
            const Ahead next = {weights.bytes_at(stop), weights.bytes_at(std::min(stop + BAND, to))};
            if (stop - start > HALF)
                turned_band<2>(whole, columns, bias, start, stop, vectors, rows, use, next);
            else
                turned_band<1>(whole, columns, bias, start, stop, vectors, rows, use, next);
            continue;
        }
        auto rest = [&](auto count, int64_t row) {
            band_of_many<decltype(count)::value>(here, columns, bias, start, stop, vectors, row,
                                                 use);
            return row + count;
        };
        int64_t row = 0;
        while (row + 4 <= rows) row = rest(std::integral_constant<int, 4>(), row);
        while (row + 2 <= rows) row = rest(std::integral_constant<int, 2>(), row);
        if (row < rows) rest(std::integral_constant<int, 1>(), row);
    }
}

}  // namespace
#endif
