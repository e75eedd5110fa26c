// Rows of weights and their dot products with vectors: bfloat16, float32, codes of 8 or 4 bits.
//
// Knows: how weights lie in memory. A dot product has one order of additions, whatever stands
// beside it and however many threads there are. Vectors are float32, and so are all sums.

#pragma once

#include "lanes.h"

namespace {

constexpr int MOST_ROWS = 8;  // activations that share one reading of a weight
constexpr int BLOCK = 32;     // columns of codes that lie together

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

extern "C" {

struct Matrix {
    const void* weight;      // rows × columns, row after row; or their codes
    const uint16_t* scales;  // of codes: rows × groups, bfloat16
    const float *levels, *bias;  // of the codes of four bits; one a row, or null
    int64_t rows, columns, bits, group;  // bits is 0 for weights that are no codes
};
}

// Rows of weights as they lie in memory; `dots` are those of WEIGHTS rows with ROWS vectors.
template <class T>
struct Plain {
    const T* weight;
    int64_t columns;

    template <int WEIGHTS, int ROWS>
    void dots(int64_t from, const float* x, int64_t stride, float out[ROWS][WEIGHTS]) const {
        const T* row = weight + from * columns;
        Vec total[ROWS][WEIGHTS] = {};
        int64_t at = 0;
        for (; at + LANES <= columns; at += LANES) {
            Vec read[WEIGHTS];
            for (int w = 0; w < WEIGHTS; w++) {
                read[w] = load(row + w * columns + at);
                __builtin_prefetch(row + (WEIGHTS + w) * columns + at);
            }
            for (int r = 0; r < ROWS; r++) {
                const Vec value = load(x + r * stride + at);
                for (int w = 0; w < WEIGHTS; w++) total[r][w] += read[w] * value;
            }
        }
        for (int r = 0; r < ROWS; r++)
            for (int w = 0; w < WEIGHTS; w++) {
                float rest = 0;
                for (int64_t c = at; c < columns; c++)
                    rest += one(row[w * columns + c]) * x[r * stride + c];
                out[r][w] = sum(total[r][w]) + rest;
            }
    }

    float at(int64_t row, int64_t column) const { return one(weight[row * columns + column]); }
    int64_t row_bytes() const { return columns * sizeof(T); }
};

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
                for (int w = 0; w < WEIGHTS; w++)
                    read[w] = piece_of(row + w * bytes + first * BITS / 8, piece, table);
                for (int r = 0; r < ROWS; r++) {
                    const Vec value = load(x + r * stride + first + piece * LANES);
                    for (int w = 0; w < WEIGHTS; w++) part[r][w] += read[w] * value;
                }
            }
            for (int w = 0; w < WEIGHTS; w++) {
                __builtin_prefetch(row + (WEIGHTS + w) * bytes + first * BITS / 8);
                const Vec factor = all(one(scale[w * groups + place]));
                for (int r = 0; r < ROWS; r++) total[r][w] += factor * part[r][w];
            }
        }
        for (int r = 0; r < ROWS; r++)
            for (int w = 0; w < WEIGHTS; w++) out[r][w] = sum(total[r][w]);
    }

    static Vec piece_of(const uint8_t* block, int piece, const Levels& table) {
        if constexpr (BITS == 8) {
            return whole(reinterpret_cast<const int8_t*>(block) + piece * LANES);
        } else {  // the lower bits are the first half of a block, the upper ones the second
            const int half = BLOCK / 2 / LANES;
            const Int read = wide(block + piece % half * LANES);
            return table[piece < half ? read : read >> 4];
        }
    }

    float at(int64_t row, int64_t column) const {
        const uint8_t* block = codes + row * row_bytes() + column / BLOCK * (BLOCK * BITS / 8);
        const float scale = one(scales[row * (columns / group) + column / group]);
        const int64_t place = column % BLOCK;
        if constexpr (BITS == 8) return scale * reinterpret_cast<const int8_t*>(block)[place];
        const uint8_t both = block[place % (BLOCK / 2)];
        return scale * levels[place < BLOCK / 2 ? both & 15 : both >> 4];
    }

    int64_t row_bytes() const { return columns * BITS / 8; }
};

// `body(weights)` with the weights of a matrix in their own form.
template <class T, class Body>
inline void with_weights(const Matrix& m, Body body) {
    const uint8_t* codes = static_cast<const uint8_t*>(m.weight);
    switch (m.bits) {
        case 4: return body(Packed<4>{codes, m.scales, m.levels, m.columns, m.group});
        case 8: return body(Packed<8>{codes, m.scales, m.levels, m.columns, m.group});
        default: return body(Plain<T>{static_cast<const T*>(m.weight), m.columns});
    }
}

template <int WEIGHTS, int ROWS, class Weights, class Use>
inline int64_t some(const Weights& weights, const float* bias, int64_t from, int64_t to,
                    const float* x, int64_t stride, int64_t first_row, Use& use) {
    float out[ROWS][WEIGHTS];
    for (; from + WEIGHTS <= to; from += WEIGHTS) {
        weights.template dots<WEIGHTS, ROWS>(from, x, stride, out);
        for (int r = 0; r < ROWS; r++)
            for (int w = 0; w < WEIGHTS; w++)
                use(first_row + r, from + w, out[r][w] + (bias ? bias[from + w] : 0.0f));
    }
    return from;
}

template <int ROWS, class Weights, class Use>
inline void band(const Weights& weights, const float* bias, int64_t from, int64_t to,
                 const float* x, int64_t stride, int64_t first_row, Use& use) {
    constexpr int WEIGHTS = ROWS >= 4 ? 2 : 8 / ROWS;  // about as many sums as hide the latency
    from = some<WEIGHTS, ROWS>(weights, bias, from, to, x, stride, first_row, use);
    some<1, ROWS>(weights, bias, from, to, x, stride, first_row, use);
}

// Outputs [from, to) of y = W·x + b for each row; `use(row, output, value)` says where they go.
template <class T, class Use>
inline void product(const Matrix& m, int64_t from, int64_t to, const float* x, int64_t rows,
                    Use use) {
    with_weights<T>(m, [&](const auto& weights) {
        const int64_t n = m.columns;
        // a band of weights stays in the nearest cache while all rows use it
        const int64_t step =
            rows > 1 ? std::max<int64_t>(1, 16384 / weights.row_bytes() / 8) * 8 : to;
        for (int64_t start = from; start < to; start += step) {
            const int64_t stop = std::min(start + step, to);
            for (int64_t row = 0; row < rows;) {
                const float* at = x + row * n;
                switch (std::min<int64_t>(rows - row, MOST_ROWS)) {
                    case 1: band<1>(weights, m.bias, start, stop, at, n, row, use); row += 1; break;
                    case 2: band<2>(weights, m.bias, start, stop, at, n, row, use); row += 2; break;
                    case 3: band<3>(weights, m.bias, start, stop, at, n, row, use); row += 3; break;
                    case 4: case 5: case 6: case 7:
                        band<4>(weights, m.bias, start, stop, at, n, row, use); row += 4; break;
                    default: band<8>(weights, m.bias, start, stop, at, n, row, use); row += 8;
                }
            }
        }
    });
}

}  // namespace
