// Tokens chosen from logits: the likeliest, or one that is drawn by chances beside the likeliest.
//
// Whoever samples as a chat does would wait longer for it than for a small model: a vocabulary is
// sorted for it elsewhere. Here it is read four times. What is kept is found by counting: numbers
// above 0 are in the order of their bits, the upper half of which tells 128 steps an octave apart,
// and only the step in which the count passes its goal is looked at closely. A row's token does not
// depend on the other rows, nor on how many threads there are.
//
// Knows: pointers and sizes that `draw.py` fills in; the rules are those of `infer/sample.py`.

#include "lanes.h"

namespace {

constexpr int64_t STEPS = 4096;   // below 2⁻³² of the likeliest all are one step
constexpr uint32_t TOP = 0x3f80;  // the upper half of 1.0f
constexpr int64_t SUMMED = 256;   // weights whose sum is taken at once

extern "C" {

struct Draw {
    const float* logits;
    float* weights;  // room for as many
    int64_t vocab, top_k, token;  // top_k is 0 for all; the token is -1 where none can be drawn
    double chance;                // from 0 to 1, without 1
    float heat, top_p, min_p;     // top_p is 1 and min_p 0 for all
};
}

inline int64_t step_of(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, sizeof bits);
    return std::min<int64_t>(STEPS - 1, TOP - (bits >> 16));
}

float largest(const float* x, int64_t count) {
    Vec tops = all(-INFINITY);
    Int odd = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec own = load(x + i);
        tops = own > tops ? own : tops;
        odd |= own != own;
    }
    float top = most(tops);
    bool none = false;
    for (int lane = 0; lane < LANES; lane++) none |= odd[lane] != 0;
    for (; i < count; i++) top = x[i] > top ? x[i] : top, none |= x[i] != x[i];
    return none ? NAN : top;
}

float total(const float* x, int64_t count) {
    Vec sums = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) sums += load(x + i);
    float rest = sum(sums);
    for (; i < count; i++) rest += x[i];
    return rest;
}

// e^x; what a grammar forbids (−∞), and what no number shows, is 0.
inline Vec weight(Vec x) { return x < -87.0f ? Vec{} : exponential(x); }

void weigh(const Draw& d, float top) {
    int64_t i = 0;
    for (; i + LANES <= d.vocab; i += LANES)
        store(d.weights + i, weight((load(d.logits + i) - top) / d.heat));
    for (; i < d.vocab; i++) d.weights[i] = weight(all((d.logits[i] - top) / d.heat))[0];
}

void drop_below(const Draw& d, float least) {
    for (int64_t i = 0; i < d.vocab; i++) d.weights[i] = d.weights[i] < least ? 0 : d.weights[i];
}

// Keep the k largest and those equal to the k-th.
void keep_most(const Draw& d) {
    std::vector<int64_t> counts(STEPS);
    for (int64_t i = 0; i < d.vocab; i++) counts[step_of(d.weights[i])]++;
    int64_t step = 0, before = 0;
    while (before + counts[step] < d.top_k) before += counts[step++];
    std::vector<float> inside;
    for (int64_t i = 0; i < d.vocab; i++)
        if (step_of(d.weights[i]) == step) inside.push_back(d.weights[i]);
    const auto last = inside.begin() + (d.top_k - before - 1);
    std::nth_element(inside.begin(), last, inside.end(), std::greater<float>());
    drop_below(d, *last);
}

// Keep the fewest that sum to a share of all.
void keep_share(const Draw& d) {
    std::vector<double> mass(STEPS);
    double whole = 0;
    for (int64_t i = 0; i < d.vocab; i++) mass[step_of(d.weights[i])] += d.weights[i];
    for (const double each : mass) whole += each;
    const double wanted = d.top_p * whole;
    int64_t step = 0;
    double before = 0;
    while (step + 1 < STEPS && before + mass[step] < wanted) before += mass[step++];
    std::vector<int64_t> inside;
    for (int64_t i = 0; i < d.vocab; i++) {
        const int64_t own = step_of(d.weights[i]);
        if (own == step)
            inside.push_back(i);
        else if (own > step)
            d.weights[i] = 0;
    }
    std::stable_sort(inside.begin(), inside.end(), [&](int64_t one, int64_t other) {
        return d.weights[one] > d.weights[other];
    });
    for (const int64_t i : inside) {
        const float own = d.weights[i];
        if (before >= wanted && i != inside[0]) d.weights[i] = 0;
        before += own;
    }
}

// Where the running sum of the weights passes a share of their whole sum.
int64_t place_of(const Draw& d) {
    std::vector<double> sums((d.vocab + SUMMED - 1) / SUMMED);
    double whole = 0;
    for (size_t block = 0; block < sums.size(); block++) {
        const int64_t from = block * SUMMED;
        sums[block] = total(d.weights + from, std::min(d.vocab - from, SUMMED));
        whole += sums[block];
    }
    if (!(whole > 0)) return -1;
    double wanted = d.chance * whole;
    size_t block = 0;
    while (block + 1 < sums.size() && wanted >= sums[block]) wanted -= sums[block++];
    while (block && sums[block] == 0) block--;  // what is wanted was rounded up to all there is
    const int64_t from = block * SUMMED, to = std::min(d.vocab, from + SUMMED);
    int64_t found = from;
    for (int64_t i = from; i < to; i++) {
        if (d.weights[i] == 0) continue;
        found = i;
        if (wanted < d.weights[i]) break;
        wanted -= d.weights[i];
    }
    return found;
}

void draw(Draw& d) {
    const float top = largest(d.logits, d.vocab);
    d.token = -1;
    if (!std::isfinite(top)) return;
    weigh(d, top);
    if (d.top_k && d.top_k < d.vocab) keep_most(d);
    if (d.top_p < 1) keep_share(d);
    if (d.min_p > 0) drop_below(d, d.min_p);
    d.token = place_of(d);
}

}  // namespace

extern "C" {

// The first of the largest logits of each row; where one is no number, the first of these.
void likeliest_rows(const float* logits, int64_t count, int64_t vocab, int64_t* tokens) {
    for (int64_t row = 0; row < count; row++) {
        const float* x = logits + row * vocab;
        const float top = largest(x, vocab);
        int64_t i = 0;
        if (top == top) {
            const Vec tops = all(top);
            for (; i + LANES <= vocab; i += LANES) {
                const Int same = load(x + i) == tops;
                int32_t lanes[LANES], any = 0;
                std::memcpy(lanes, &same, sizeof same);
                for (int lane = 0; lane < LANES; lane++) any |= lanes[lane];
                if (any) break;
            }
            while (x[i] != top) i++;
        } else {
            while (x[i] == x[i]) i++;
        }
        tokens[row] = i;
    }
}

// Each row by itself.
void draw_rows(Draw* rows, int64_t count, int64_t threads) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(std::min(threads, count)) schedule(static)
#endif
    for (int64_t row = 0; row < count; row++) draw(rows[row]);
}
}
