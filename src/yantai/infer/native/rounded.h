// Vectors as whole numbers of sixteen bits, so that codes are multiplied as what they are.
//
// A processor multiplies 32 pairs of whole numbers, and adds them up in pairs, where it multiplies
// 16 pairs of floats; and a code of eight bits becomes a whole number at once, a float only in two
// steps. Each PIECE of columns has a scale of its own, so what is lost is 2^-16 of the largest
// number in it; rounding to bfloat16 loses 2^-9 of each.

#pragma once

#include "lanes.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define WHOLE_NUMBERS 1

namespace {

constexpr int PIECE = 64;         // columns that are read at once
constexpr float TOP = 32767.0f;   // the largest number
constexpr float STEPS = 8191.0f;  // of a level: four products of these and TOP fit in 32 bits

// Rows of numbers, rounded. Columns that are missing in the last piece are zeros.
struct Rounded {
    Room<int16_t> numbers;
    Room<float> scales;
    int64_t pieces = 0;

    // `folded`: of a piece's four quarters the second and the third change places, as the codes of
    // four bits lie.
    void take(const float* x, int64_t rows, int64_t columns, bool folded) {
        pieces = (columns + PIECE - 1) / PIECE;
        numbers.of(rows * pieces * PIECE);
        scales.of(rows * pieces);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t piece = 0; piece < pieces; piece++)
                round(x + row * columns + piece * PIECE, columns - piece * PIECE, folded,
                      row * pieces + piece);
    }

    const int16_t* row(int64_t number) const { return numbers.start() + number * pieces * PIECE; }

    const float* scales_of(int64_t row) const { return scales.start() + row * pieces; }

  private:
    void round(const float* x, int64_t left, bool folded, int64_t place) {
        __m512 part[PIECE / 16], largest = _mm512_setzero_ps(), poison = largest;
        for (int q = 0; q < PIECE / 16; q++) {
            const int64_t here = std::clamp<int64_t>(left - 16 * q, 0, 16);
            part[q] = _mm512_maskz_loadu_ps((1u << here) - 1, x + 16 * q);
            largest = _mm512_max_ps(largest, _mm512_abs_ps(part[q]));
            poison = _mm512_fmadd_ps(part[q], _mm512_setzero_ps(), poison);
        }
        const float top = _mm512_reduce_max_ps(largest);
        const float sick = _mm512_reduce_add_ps(poison);  // what is no number stays none
        scales.start()[place] = top / TOP + sick;
        const __m512 inverse = _mm512_set1_ps(top > 1e-30f ? TOP / top : 0.0f);
        for (int q = 0; q < PIECE / 16; q++) {
            const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(part[q], inverse));
            const int to = folded && (q == 1 || q == 2) ? 3 - q : q;
            int16_t* there = numbers.start() + place * PIECE + 16 * to;
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(there), _mm512_cvtsepi32_epi16(whole));
        }
    }
};

// One a thread: products do not stand in each other.
inline Rounded& own_rounded() {
    thread_local Rounded rounded;
    return rounded;
}

inline __m512i numbers_at(const int16_t* from) {
    return _mm512_loadu_si512(reinterpret_cast<const void*>(from));
}

// A piece of a row of codes as two times 32 whole numbers.
struct Halves {
    __m512i first, second;
};

// Eight bits: columns 0 to 31, and 32 to 63 if they are there.
inline Halves halves(const int8_t* codes, bool both) {
    const __m256i* from = reinterpret_cast<const __m256i*>(codes);
    return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(from)),
            both ? _mm512_cvtepi8_epi16(_mm256_loadu_si256(from + 1)) : _mm512_setzero_si512()};
}

// Four bits: the lower halves of the bytes, then the upper ones, each as its level. The table is
// there twice, so that a fifth bit changes nothing.
inline Halves halves(const uint8_t* codes, bool both, __m512i table) {
    const __m256i read = _mm256_maskz_loadu_epi8(both ? 0xffffffffu : 0xffffu, codes);
    const __m512i words = _mm512_cvtepu8_epi16(read);
    return {_mm512_permutexvar_epi16(words, table),
            _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table)};
}

inline __m512i whole_levels(const float* levels) {
    const __m512 wide = _mm512_mul_ps(_mm512_loadu_ps(levels), _mm512_set1_ps(STEPS));
    return _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(_mm512_cvtps_epi32(wide)));
}

// Two bfloat16 that lie side by side, each for a half of the lanes.
inline Vec two_scales(const uint16_t* from) {
    uint32_t both;
    std::memcpy(&both, from, sizeof both);
    const __m512i upper = _mm512_set1_epi32(0xffff0000), every = _mm512_set1_epi32(both);
    const __m512i shift = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16);
    return (Vec)_mm512_and_si512(_mm512_sllv_epi32(every, shift), upper);
}

inline __m512i both_dots(const Halves& codes, __m512i first, __m512i second) {
    const __m512i dots = _mm512_dpwssd_epi32(_mm512_setzero_si512(), codes.first, first);
    return _mm512_dpwssd_epi32(dots, codes.second, second);
}

}  // namespace
#endif
