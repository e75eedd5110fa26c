// Codes of eight or four bits as numbers: what every part that reads them shares.
//
// Knows: bytes. A block of 32 columns lies together; in four bits the first half of it are the lower
// bits of 16 bytes (adapt/packed.py).

#pragma once

#include "lanes.h"

constexpr int BLOCK = 32;  // columns of codes that lie together

typedef int8_t Bytes __attribute__((vector_size(LANES)));
typedef uint8_t Codes __attribute__((vector_size(LANES)));

// Bytes as whole numbers; GCC 12 would widen them one at a time.
inline Int wide(const int8_t* from) {
#if defined(__AVX512F__)
    return (Int)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
    return (Int)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
    Bytes x;
    std::memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, Int);
#endif
}

inline Int wide(const uint8_t* from) {
#if defined(__AVX512F__)
    return (Int)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
    return (Int)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
    Codes x;
    std::memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, Int);
#endif
}

inline Vec whole(const int8_t* from) { return __builtin_convertvector(wide(from), Vec); }

// Sixteen numbers, looked up by the lower four bits of each lane.
struct Levels {
#if defined(__AVX512F__)
    __m512 all;
    explicit Levels(const float* from) : all(from ? _mm512_loadu_ps(from) : __m512{}) {}
    Vec operator[](Int index) const { return (Vec)_mm512_permutexvar_ps((__m512i)index, all); }
#elif defined(__AVX2__)
    __m256 low, high;
    explicit Levels(const float* from)
        : low(from ? _mm256_loadu_ps(from) : __m256{}),
          high(from ? _mm256_loadu_ps(from + 8) : __m256{}) {}
    Vec operator[](Int index) const {
        const __m256i at = (__m256i)index;
        return (Vec)_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, at),
                                     _mm256_permutevar8x32_ps(high, at),
                                     _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
    }
#else
    const float* all;
    explicit Levels(const float* from) : all(from) {}
    Vec operator[](Int index) const {
        Vec found;
        for (int lane = 0; lane < LANES; lane++) found[lane] = all[index[lane] & 15];
        return found;
    }
#endif
};

// Some columns of a block as numbers, before they are scaled.
template <int BITS>
inline Vec piece_of(const uint8_t* block, int piece, const Levels& table) {
    if constexpr (BITS == 8) {
        return whole(reinterpret_cast<const int8_t*>(block) + piece * LANES);
    } else {  // the lower bits are the first half of a block, the upper ones the second
        const int half = BLOCK / 2 / LANES;
        const Int read = wide(block + piece % half * LANES);
        return table[piece < half ? read : read >> 4];
    }
}
