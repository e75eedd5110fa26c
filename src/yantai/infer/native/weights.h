// Rows of weights and their dot products with vectors: bfloat16, float32, codes of 8 or 4 bits.
//
// Knows: how weights lie in memory. A dot product has one order of additions, whatever stands
// beside it and however many threads there are. Vectors are float32, and so are all sums; beside
// codes they are rounded to whole numbers where the processor multiplies these.

#pragma once

#include "lanes.h"
#include "many.h"
#include "rounded.h"

namespace {

constexpr int MOST_ROWS = 8;  // activations that share one reading of a weight
constexpr int BLOCK = 32;     // columns of codes that lie together
constexpr int AHEAD = 4096;   // bytes of weights that are asked for before they are read

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
        const int64_t whole = columns / LANES * LANES;
        if constexpr (ROWS == 1) {  // one behind another, as memory is read ahead
            for (int w = 0; w < WEIGHTS; w++) {
                Vec sum = {};
                for (int64_t at = 0; at < whole; at += LANES) {
                    __builtin_prefetch(row + w * columns + at + AHEAD / sizeof(T));
                    sum += load(row + w * columns + at) * load(x + at);
                }
                total[0][w] = sum;
            }
        } else {
            for (int64_t at = 0; at < whole; at += LANES) {
                Vec read[WEIGHTS];
                EACH
                for (int w = 0; w < WEIGHTS; w++) {
                    read[w] = load(row + w * columns + at);
                    __builtin_prefetch(row + (WEIGHTS + w) * columns + at);
                }
                EACH
                for (int r = 0; r < ROWS; r++) {
                    const Vec value = load(x + r * stride + at);
                    EACH
                    for (int w = 0; w < WEIGHTS; w++) total[r][w] += read[w] * value;
                }
            }
        }
        EACH
        for (int r = 0; r < ROWS; r++) {
            sums<WEIGHTS>(total[r], out[r]);
            EACH
            for (int w = 0; w < WEIGHTS; w++) {
                float rest = 0;
                for (int64_t c = whole; c < columns; c++)
                    rest += one(row[w * columns + c]) * x[r * stride + c];
                out[r][w] += rest;
            }
        }
    }

#ifdef MANY_ROWS
    Rows narrow_rows(int64_t from, int64_t, Narrow&) const {
        return {reinterpret_cast<const uint16_t*>(weight) + from * columns, columns};
    }
#endif

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
                EACH
                for (int w = 0; w < WEIGHTS; w++)
                    read[w] = piece_of(row + w * bytes + first * BITS / 8, piece, table);
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
        Vec total[ROWS][WEIGHTS] = {};
        if constexpr (ROWS == 1) {  // one behind another, as memory is read ahead
            for (int w = 0; w < WEIGHTS; w++) {
                Vec sum = {};
                for (int64_t piece = 0; piece < x.pieces; piece++)
                    sum += read<HOW>(from + w, piece, table).times(x, first, piece);
                total[0][w] = sum;
            }
        } else {
            for (int64_t piece = 0; piece < x.pieces; piece++) {
                Read<HOW> weights[WEIGHTS];
                EACH
                for (int w = 0; w < WEIGHTS; w++) {
                    weights[w] = read<HOW>(from + w, piece, table);
                    __builtin_prefetch(place_of(from + WEIGHTS + w, piece));
                }
                EACH
                for (int r = 0; r < ROWS; r++)
                    EACH
                    for (int w = 0; w < WEIGHTS; w++)
                        total[r][w] += weights[w].times(x, first + r, piece);
            }
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

        Vec times(const Rounded& x, int64_t row, int64_t piece) const {
            const int16_t* numbers = x.row(row) + piece * PIECE;
            const __m512i low = numbers_at(numbers), high = numbers_at(numbers + PIECE / 2);
            const Vec own = all(x.scale(row, piece));
            if constexpr (BITS == 4 || HOW == Scales::ONE)
                return own * scale * floats(both_dots(codes, low, high));
            const __m512i none = _mm512_setzero_si512();
            return own * (scale * floats(_mm512_dpwssd_epi32(none, codes.first, low)) +
                          other * floats(_mm512_dpwssd_epi32(none, codes.second, high)));
        }
    };

    template <Scales HOW>
    Read<HOW> read(int64_t row, int64_t piece, __m512i table) const {
        const uint8_t* here = place_of(row, piece);
        const bool both = HOW == Scales::ONE || (piece + 1) * PIECE <= columns;
        const uint16_t* own = scales + row * (columns / group);
        Read<HOW> found;
        if constexpr (BITS == 4)
            found.codes = halves(here, both, table);
        else
            found.codes = halves(reinterpret_cast<const int8_t*>(here), both);
        if constexpr (HOW == Scales::ONE) {
            found.scale = all(one(own[piece]));
        } else if constexpr (HOW == Scales::TWO && BITS == 4) {
            found.scale = both ? two_scales(own + 2 * piece) : all(one(own[2 * piece]));
        } else {
            const int64_t at = piece * PIECE, next = both ? at + BLOCK : at;
            const int64_t size = HOW == Scales::TWO ? BLOCK : group;
            found.scale = all(one(own[at / size]));
            found.other = all(one(own[next / size]));
            if constexpr (BITS == 4)
                found.scale = (Vec)_mm512_mask_blend_ps(0xff00, (__m512)found.scale,
                                                        (__m512)found.other);
        }
        return found;
    }

    const uint8_t* place_of(int64_t row, int64_t piece) const {
        return codes + row * row_bytes() + piece * (PIECE * BITS / 8);
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
                    store(out + at + piece * LANES, factor * piece_of(block, piece, table));
            }
        }
        return {start, room.width};
    }
#endif

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

// A vector as it is: rows of floats one behind another.
struct Floats {
    const float* x;
    int64_t stride;
};

template <int WEIGHTS, int ROWS, class Weights>
inline void dots(const Weights& weights, int64_t from, const Floats& x, int64_t first,
                 float out[ROWS][WEIGHTS]) {
    weights.template dots<WEIGHTS, ROWS>(from, x.x + first * x.stride, x.stride, out);
}

#ifdef WHOLE_NUMBERS
template <int WEIGHTS, int ROWS, int BITS>
inline void dots(const Packed<BITS>& weights, int64_t from, const Rounded& x, int64_t first,
                 float out[ROWS][WEIGHTS]) {
    weights.template dots<WEIGHTS, ROWS>(from, x, first, out);
}
#endif

template <int WEIGHTS, int ROWS, class Weights, class Vectors, class Use>
inline int64_t some(const Weights& weights, const float* bias, int64_t from, int64_t to,
                    const Vectors& x, int64_t first_row, Use& use) {
    float out[ROWS][WEIGHTS];
    for (; from + WEIGHTS <= to; from += WEIGHTS) {
        dots<WEIGHTS, ROWS>(weights, from, x, first_row, out);
        EACH
        for (int r = 0; r < ROWS; r++)
            EACH
            for (int w = 0; w < WEIGHTS; w++)
                use(first_row + r, from + w, out[r][w] + (bias ? bias[from + w] : 0.0f));
    }
    return from;
}

template <int ROWS, class Weights, class Vectors, class Use>
inline void band(const Weights& weights, const float* bias, int64_t from, int64_t to,
                 const Vectors& x, int64_t first_row, Use& use) {
    constexpr int WEIGHTS = ROWS >= 4 ? 2 : 8 / ROWS;  // about as many sums as hide the latency
    from = some<WEIGHTS, ROWS>(weights, bias, from, to, x, first_row, use);
    some<1, ROWS>(weights, bias, from, to, x, first_row, use);
}

template <class Weights, class Vectors, class Use>
inline void bands(const Weights& weights, const float* bias, int64_t from, int64_t to,
                  const Vectors& x, int64_t rows, Use& use) {
    // a band of weights stays in the nearest cache while all rows use it
    const int64_t step = rows > 1 ? std::max<int64_t>(1, 16384 / weights.row_bytes() / 8) * 8 : to;
    for (int64_t start = from; start < to; start += step) {
        const int64_t stop = std::min(start + step, to);
        for (int64_t row = 0; row < rows;) {
            switch (std::min<int64_t>(rows - row, MOST_ROWS)) {
                case 1: band<1>(weights, bias, start, stop, x, row, use); row += 1; break;
                case 2: band<2>(weights, bias, start, stop, x, row, use); row += 2; break;
                case 3: band<3>(weights, bias, start, stop, x, row, use); row += 3; break;
                case 4: case 5: case 6: case 7:
                    band<4>(weights, bias, start, stop, x, row, use); row += 4; break;
                default: band<8>(weights, bias, start, stop, x, row, use); row += 8;
            }
        }
    }
}

// Outputs [from, to) of y = W·x + b for each row; `use(row, output, value)` says where they go.
// `alone`: each row as if there were no others, however many there are.
template <class T, class Use>
inline void product(const Matrix& m, int64_t from, int64_t to, const float* x, int64_t rows,
                    bool alone, Use use) {
#ifdef MANY_ROWS
    if (std::is_same_v<T, uint16_t> && rows >= (m.bits ? MANY_OF_CODES : MANY) && !alone)
        return with_weights<T>(m, [&](const auto& weights) {
            product_of_many(weights, m.bias, from, to, x, rows, m.columns, use);
        });
#endif
#ifdef WHOLE_NUMBERS
    if (m.bits) {
        thread_local Rounded rounded;
        rounded.take(x, rows, m.columns, m.bits == 4);
        return with_weights<T>(m, [&](const auto& weights) {
            if constexpr (!std::is_same_v<std::decay_t<decltype(weights)>, Plain<T>>)
                bands(weights, m.bias, from, to, rounded, rows, use);
        });
    }
#endif
    with_weights<T>(m, [&](const auto& weights) {
        bands(weights, m.bias, from, to, Floats{x, m.columns}, rows, use);
    });
}

}  // namespace
