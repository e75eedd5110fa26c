// A vector register of numbers at a time: what every compiled part of the house shares.
//
// Vectors are the compiler's own (GCC and Clang), so the same text is AVX-512, AVX2 or NEON. Wider
// ones than the processor's would compile, too, but comparisons become one number at a time.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

// Before a short loop over registers: written out, or the compiler keeps them in memory.
#define EACH _Pragma("GCC unroll 16")

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef uint32_t Wide __attribute__((vector_size(4 * LANES)));
typedef uint16_t Half __attribute__((vector_size(2 * LANES)));

// Memory that begins where a line of the cache begins, and keeps its size when less is asked for.
template <class T>
class Room {
    struct alignas(64) Line {
        char bytes[64];
    };
    std::vector<Line> lines;

  public:
    T* of(int64_t count) {
        const size_t wanted = (count * sizeof(T) + sizeof(Line) - 1) / sizeof(Line);
        if (lines.size() < wanted) lines.resize(wanted);
        return start();
    }
    T* start() { return reinterpret_cast<T*>(lines.data()); }
    const T* start() const { return reinterpret_cast<const T*>(lines.data()); }
};

inline Vec all(float value) { return value - Vec{}; }

inline Vec load(const float* from) {
    Vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline Vec load(const uint16_t* from) {  // bfloat16 is the upper half of a float
    Half x;
    std::memcpy(&x, from, sizeof x);
    return (Vec)(__builtin_convertvector(x, Wide) << 16);
}

inline void store(float* to, Vec x) { std::memcpy(to, &x, sizeof x); }

inline void store(uint16_t* to, Half x) { std::memcpy(to, &x, sizeof x); }

inline Half narrow(Vec x) {  // to bfloat16: to nearest, ties to even
#ifdef __AVX512BF16__
    return (Half)_mm512_cvtneps_pbh((__m512)x);
#else
    const Wide bits = (Wide)x;
    const Wide rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return __builtin_convertvector(x == x ? rounded : Wide{} + 0x7fc0u, Half);
#endif
}

inline void store(uint16_t* to, Vec x) { store(to, narrow(x)); }

// The first `count` numbers, zeros behind them; what lies behind them in memory is not touched.
inline Vec load_some(const float* from, int64_t count) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_loadu_ps((1u << count) - 1, from);
#else
    float x[LANES] = {};
    std::copy(from, from + count, x);
    return load(x);
#endif
}

inline void store_some(float* to, Vec x, int64_t count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (1u << count) - 1, (__m512)x);
#else
    float all[LANES];
    store(all, x);
    std::copy(all, all + count, to);
#endif
}

inline float one(float x) { return x; }

inline float one(uint16_t x) {
    const uint32_t wide = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

inline void put(float* to, float x) { *to = x; }

inline void put(float* to, Vec x) { store(to, x); }

inline void raise(float* to, float x) { *to += x; }

inline void raise(float* to, Vec x) { store(to, load(to) + x); }

inline void put(uint16_t* to, float x) {  // to nearest, ties to even; what is no number stays so
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    *to = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The lanes of a vector, added up as a tree: halves onto halves.
inline float sum(Vec x) {
    float part[LANES];
    std::memcpy(part, &x, sizeof x);
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) part[lane] += part[lane + width];
    return part[0];
}

// The sums of COUNT vectors; each is added up in the order of `sum`.
template <int COUNT>
inline void sums(const Vec* x, float* out) {
    int at = 0;
#if defined(__AVX512F__)
    for (; at + 4 <= COUNT; at += 4) {
        const __m512 a = (__m512)x[at], b = (__m512)x[at + 1];
        const __m512 c = (__m512)x[at + 2], d = (__m512)x[at + 3];
        const __m512 ab =
            _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
        const __m512 cd =
            _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
        __m512 each =
            _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
        each = _mm512_add_ps(each, _mm512_permute_ps(each, 0xee));
        each = _mm512_add_ps(each, _mm512_permute_ps(each, 0x55));
        _mm_storeu_ps(out + at, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, each)));
    }
#endif
    for (; at < COUNT; at++) out[at] = sum(x[at]);
}

inline float most(Vec x) {
    float part[LANES];
    std::memcpy(part, &x, sizeof x);
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++)
            part[lane] = std::max(part[lane], part[lane + width]);
    return part[0];
}

// e^x to 2 units in the last place: 2^n·e^r with |r| ≤ ln2/2, e^r as a polynomial (Cephes' expf).
inline Vec exponential(Vec x) {
    const Vec low = all(-87.0f), high = all(88.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Vec magic = all(12582912.0f);
    const Vec n = (x * 1.44269504088896341f + magic) - magic;
    const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec e = all(1.9875691500e-4f);
    e = e * r + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * r * r + r + 1.0f;
    const Int power = (__builtin_convertvector(n, Int) + 127) << 23;
    return e * (Vec)power;
}

inline Vec hyperbolic_tangent(Vec x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

// ---------------------------------------------------------------- chance

// Dropout without a mask in memory: whether a place is kept is a hash of its number under a key, so
// that the backward, and any number of threads, find the same again. The hash is two rounds of
// multiplying and folding, the key's second half between them.
struct Kept {
    uint32_t first, second, dropped;  // dropped: the part of all 2^32 hashes
    float scale;                      // of what is kept

    Kept(uint64_t seed, uint64_t stream, float rate)
        : dropped(uint32_t(double(rate) * 4294967296.0)), scale(1.0f / (1.0f - rate)) {
        uint64_t key = seed + (stream + 1) * 0x9e3779b97f4a7c15u;  // SplitMix64
        key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
        key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
        key ^= key >> 31;
        first = uint32_t(key), second = uint32_t(key >> 32);
    }

    // 0 where a place is dropped, else the scale.
    Vec operator()(Wide place) const {
        Wide hash = place * 0x9e3779b1u + first;
        hash = (hash ^ (hash >> 16)) * 0x21f0aaadu;
        hash ^= second;
        hash = (hash ^ (hash >> 15)) * 0xd35a2d97u;
        hash ^= hash >> 15;
        return hash >= dropped ? all(scale) : Vec{};
    }
};

const Wide PLACES = [] {
    Wide places = {};
    for (int lane = 0; lane < LANES; lane++) places[lane] = lane;
    return places;
}();

// ---------------------------------------------------------------- activations

struct Slope {
    Vec value, slope;  // f(x) and f'(x)
};

template <int KIND>
inline Slope activation(Vec x) {
    if constexpr (KIND == 0) {  // gelu; Φ by Abramowitz and Stegun 7.1.26, to 1.5e-7
        const Vec bell = exponential(-0.5f * x * x);
        const Vec size = 0.70710678f * (x < 0.0f ? -x : x);
        const Vec t = 1.0f / (1.0f + 0.3275911f * size);
        const Vec tail = 0.5f * bell * t *
            (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
        const Vec phi = x < 0.0f ? tail : 1.0f - tail;
        return {x * phi, phi + x * bell * 0.39894228f};
    } else if constexpr (KIND == 1) {  // gelu_tanh
        const Vec t = hyperbolic_tangent(0.79788456f * (x + 0.044715f * x * x * x));
        const Vec inner = 0.79788456f * (1.0f + 3.0f * 0.044715f * x * x);
        return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner};
    } else if constexpr (KIND == 2) {  // silu
        const Vec s = 1.0f / (1.0f + exponential(-x));
        return {x * s, s * (1.0f + x * (1.0f - s))};
    } else if constexpr (KIND == 3) {  // relu
        return {x < 0.0f ? Vec{} : x, x > 0.0f ? all(1.0f) : Vec{}};
    } else {  // relu_squared
        return {x < 0.0f ? Vec{} : x * x, x > 0.0f ? 2.0f * x : Vec{}};
    }
}

// `body(kind)` with the kind as a constant.
template <class Body>
void with_kind(int64_t kind, Body body) {
    switch (kind) {
        case 0: return body(std::integral_constant<int, 0>());
        case 1: return body(std::integral_constant<int, 1>());
        case 2: return body(std::integral_constant<int, 2>());
        case 3: return body(std::integral_constant<int, 3>());
        default: return body(std::integral_constant<int, 4>());
    }
}
