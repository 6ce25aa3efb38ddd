/* The range coder's fast path: whole frames in one call, plain C11, no Python headers (ctypes loads it and frees the
 * GIL).
 *
 * It computes exactly what docs/protocol.md, "Bitstream", says and what range_coder.py, contexts.py and python_coder.py
 * do in Python. Two ideas make it fast:
 *   - the encoder first turns a layer into a list of steps (slot numbers), then runs two layers' coders in lockstep, so
 *     that one waits for its multiplication while the other works; it divides by multiplying with ceil(2^64 / freq),
 *     exact for x < 2^32;
 *   - the decoder finds a slot with one byte load (2^P bytes a table), so that the tables in use stay in the cache.
 * Safety: every read of the payload and every write of the output is bounds-checked; nothing a stream holds is used
 * as an index without being masked or compared. No globals, so calls may run at the same time.
 * What Python calls begins with fs_, for FrankenStream, since all C names of a process share one room.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h> /* abs */
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define ABI             5      /* native_coder.py's _ABI: any change of a function or struct */
#define STATE_LOW       65536u /* 2^16: the state's lower bound, and the start state without the check */
#define MAGNITUDE_MAX   4095   /* limits.SYMBOL_MAGNITUDE_MAX */
#define ESCAPE_BITS_MAX 13
#define SIDE_MAX        256 /* limits.LATENT_SIDE_MAX */
#define GOLDEN          0x9E3779B1u /* a prime near 2^32 / golden ratio: its multiples lie far apart (D. Knuth) */
#define MIXER           0x7FEB352Du /* from C. Wellons's lowbias32: spreads every bit over the high half */
#define RAW             0x80000000u /* a step that is raw bits: RAW | bits << 16 | value */

enum { BUFFER_FULL = -1, SYMBOL_TOO_LARGE = -2, BAD_ARGUMENT = -3 };
enum {
    KIND_NONE,
    KIND_REFERENCE,
    KIND_REFERENCE_NEIGHBOURHOOD,
    KIND_CHECKERBOARD,
    KIND_LAYER,
    KIND_CHANGES,
    KIND_PREVIOUS
};

typedef struct { /* one slot, ready for encoding: see ENCODE_STEP */
    uint64_t reciprocal;
    uint32_t x_max;
    uint32_t complement;
    uint32_t bias;
    uint32_t unused;
} encode_slot;

typedef struct { /* the table of one (channel, context) */
    int32_t low;
    int32_t count;  /* symbols; slot number `count` is escape */
    uint32_t first; /* its first slot */
    uint32_t table; /* its row of `slot_of` */
} table_ref;

typedef struct {
    int32_t kind;
    int32_t clip;
    int32_t step;
    int32_t sources; /* first of this term's sources */
    int32_t threshold_count;
    int32_t thresholds[8];
    int32_t unused[3];
} context_term;

typedef struct { /* one (operating point, set); the layout is native_coder.py's _Plan */
    int32_t precision;
    int32_t channels;
    int32_t layers;
    int32_t place_slot;         /* first slot of the 16 tables of places, two slots each; -1: no map of places */
    const int32_t *layer_first; /* [layers + 1] first channel of each layer */
    const int32_t *term_first;  /* [layers + 1] first term of each layer */
    const context_term *terms;
    const int32_t *sources;
    const int32_t *context_first; /* [channels] first table_ref of each channel */
    const table_ref *tables;
    const int32_t *skip_slot; /* [channels] first of the skip table's two slots, -1: none */
    const int16_t *fill;      /* [channels] */
    const encode_slot *encode_slots;
    const uint32_t *decode_slots; /* freq << 16 | start */
    const uint32_t *costs;        /* bits of each slot, in 1/65536 */
    const uint8_t *slot_of;       /* [tables][2^precision] */
} plan;

typedef struct {
    int height, width;
    ptrdiff_t places;
} grid;

typedef struct {      /* the caller's workspace, divided up */
    uint8_t *context; /* [places] */
    uint8_t *classes; /* [height * (width + 1)] */
    int16_t *sums;    /* [height * (width + 1)] */
    int16_t *plane;   /* [(height + 2) * (width + 1) + 1], zeros where there is no place */
    int16_t *changed; /* [places] in how many channels so far the symbol is not its prediction */
    uint32_t *steps;  /* [2 * steps_max] */
    int32_t *refreshed; /* [places] the refreshed places, row by row */
    int32_t *halves;    /* [places] the same, first half of the checkerboard first */
    uint8_t *flags;     /* [places] the map of places */
    uint8_t *lane_a_bytes; /* [capacity] where the encoder's lane a writes before its bytes get their place in `out` */
    uint8_t *out;     /* [capacity], the workspace's end */
    int64_t capacity;
} work;

typedef struct { /* what a call works on */
    const plan *p;
    grid g;
    const int16_t *symbols;   /* [channels][height][width]; of a decoder, what it has so far */
    const int16_t *reference; /* the same, or NULL */
    int16_t *decoded;         /* a decoder's output, the same memory as `symbols` */
    work w;
    int mapped;           /* the frame has a map of places, so that only these are coded: */
    ptrdiff_t count;      /* how many are refreshed, */
    ptrdiff_t first_half; /* and how many of them in the first half of the checkerboard */
} frame;

/* ---- Workspace ---- */

static int grid_is_sound(const plan *p, int height, int width, int layers) {
    return height >= 1 && width >= 1 && height <= SIDE_MAX && width <= SIDE_MAX && layers >= 1 && layers <= p->layers;
}

static size_t steps_max(const plan *p, grid g) {
    int most = 0;
    for (int k = 0; k < p->layers; k++) {
        const int channels = p->layer_first[k + 1] - p->layer_first[k];
        most = channels > most ? channels : most;
    }
    return (size_t)most * (3 * (size_t)g.places + 1) + (size_t)g.places; /* the map of places */
}

/* Lay out `memory`, or with NULL only tell how large it must be for a payload of w->capacity bytes. The caller keeps
 * it for later calls: fresh memory for each frame would cost more (page faults) than the coding. */
static int64_t lay_out_workspace(work *w, const plan *p, grid g, uint8_t *memory) {
    const int64_t cells = (int64_t)g.height * (g.width + 1), plane = (int64_t)(g.height + 2) * (g.width + 1) + 1;
    const int64_t steps = 2 * (int64_t)steps_max(p, g) * (int64_t)sizeof(uint32_t);
    const int64_t lists = 2 * (int64_t)g.places * (int64_t)sizeof(int32_t);
    const int64_t fixed =
        steps + lists + (plane + cells + g.places) * (int64_t)sizeof(int16_t) + cells + 2 * (int64_t)g.places;
    if (!memory) return fixed + 2 * w->capacity;
    w->steps = (uint32_t *)memory;
    w->refreshed = (int32_t *)(memory + steps);
    w->halves = w->refreshed + g.places;
    w->plane = (int16_t *)(memory + steps + lists);
    w->sums = w->plane + plane;
    w->changed = w->sums + cells;
    w->classes = (uint8_t *)(w->changed + g.places);
    w->context = w->classes + cells;
    w->flags = w->context + g.places;
    w->lane_a_bytes = memory + fixed;
    w->out = w->lane_a_bytes + w->capacity;
    memset(w->plane, 0, (size_t)plane * sizeof(int16_t));
    return fixed + 2 * w->capacity;
}

/* Bytes of workspace that a grid needs, for payloads of up to `capacity` bytes. */
EXPORT int64_t fs_workspace_bytes(const plan *p, int height, int width, int64_t capacity) {
    work w = {.capacity = capacity};
    const grid g = {height, width, (ptrdiff_t)height * width};
    return grid_is_sound(p, height, width, p->layers) ? lay_out_workspace(&w, p, g, NULL) : BAD_ARGUMENT;
}

/* Ready a call; 0: an argument is unsound. */
static int ready_frame(frame *f, int layers, uint8_t *workspace, int64_t size) {
    if (!grid_is_sound(f->p, f->g.height, f->g.width, layers)) return 0;
    f->w.capacity = 0;
    const int64_t rest = size - lay_out_workspace(&f->w, f->p, f->g, NULL);
    if (rest < 0 || rest % 2) return 0;
    f->w.capacity = rest / 2;
    lay_out_workspace(&f->w, f->p, f->g, workspace);
    f->mapped = f->p->place_slot >= 0 && f->reference != NULL;
    f->count = f->first_half = 0;
    return 1;
}

/* ---- Check ---- */

static uint32_t layer_check(const int16_t *restrict symbols, ptrdiff_t count, int layer) {
    uint32_t sum = 0;
    for (ptrdiff_t i = 0; i < count; i++) sum += (uint32_t)(int32_t)symbols[i] * (((uint32_t)i * GOLDEN) | 1u);
    sum += GOLDEN * (uint32_t)(layer + 1);
    sum = (sum ^ (sum >> 16)) * MIXER;
    return sum >> 16;
}

/* ---- Contexts ---- */

static inline int clamp(int value, int limit) { return value < -limit ? -limit : value > limit ? limit : value; }

/* Values lie in a plane with a zero before each row and zero rows around, so that one long loop sums neighbours. */
static int16_t *plane_of(const work *w, grid g) { return w->plane + g.width + 1; }

static int16_t *fill_plane(const work *w, grid g, const int16_t *values) {
    int16_t *plane = plane_of(w, g);
    for (int y = 0; y < g.height; y++)
        memcpy(plane + y * (g.width + 1) + 1, values + (ptrdiff_t)y * g.width, (size_t)g.width * sizeof *plane);
    return plane;
}

/* Add step * (how many of `count` thresholds the sums have reached) to the contexts; odd_only: to the second half of a
 * checkerboard, and one step more. */
static void add_classes(const int32_t *thresholds, int count, int step_, grid g, int odd_only, work *w) {
    const ptrdiff_t stride = g.width + 1, cells = stride * g.height;
    const int16_t *restrict sums = w->sums;
    uint8_t *restrict classes = w->classes;
    const uint8_t step = (uint8_t)step_;
    for (ptrdiff_t i = 0; i < cells; i++) classes[i] = odd_only ? step : 0;
    for (int k = 0; k < count; k++) {
        const int16_t threshold = (int16_t)thresholds[k];
        for (ptrdiff_t i = 0; i < cells; i++) classes[i] = (uint8_t)(classes[i] + (sums[i] >= threshold ? step : 0));
    }
    for (int y = 0; y < g.height; y++) {
        uint8_t *restrict out = w->context + (ptrdiff_t)y * g.width;
        const uint8_t *restrict in = classes + y * stride + 1;
        if (odd_only)
            for (int x = (y + 1) & 1; x < g.width; x += 2) out[x] = (uint8_t)(out[x] + in[x]);
        else
            for (int x = 0; x < g.width; x++) out[x] = (uint8_t)(out[x] + in[x]);
    }
}

/* Class of the four neighbours' magnitudes. */
static void add_neighbourhood(const context_term *t, const int16_t *channel, grid g, int odd_only, work *w) {
    const ptrdiff_t stride = g.width + 1, cells = stride * g.height;
    int16_t *plane = plane_of(w, g), *restrict sums = w->sums;
    for (int y = 0; y < g.height; y++) {
        const int16_t *in = channel + (ptrdiff_t)y * g.width;
        for (int x = 0; x < g.width; x++) plane[y * stride + 1 + x] = (int16_t)abs(in[x]);
    }
    for (ptrdiff_t i = 0; i < cells; i++)
        sums[i] = (int16_t)(plane[i - 1] + plane[i + 1] + plane[i - stride] + plane[i + stride]);
    add_classes(t->thresholds, t->threshold_count, t->step, g, odd_only, w);
}

/* Class of the share of changed symbols in the channels before, here and at the four neighbours. */
static void add_changes(const context_term *t, int channel, grid g, work *w) {
    if (channel == 0) return;
    const ptrdiff_t stride = g.width + 1, cells = stride * g.height;
    const int16_t *plane = fill_plane(w, g, w->changed);
    int16_t *restrict sums = w->sums;
    int32_t reached[8];
    for (int k = 0; k < t->threshold_count; k++) reached[k] = (t->thresholds[k] * 5 * channel + 255) / 256;
    for (ptrdiff_t i = 0; i < cells; i++)
        sums[i] = (int16_t)(plane[i] + plane[i - 1] + plane[i + 1] + plane[i - stride] + plane[i + stride]);
    add_classes(reached, t->threshold_count, t->step, g, 0, w);
}

/* Count the channels from `first` to before `end` whose symbol is not its prediction. */
static void count_changes(frame *f, int first, int end) {
    const ptrdiff_t places = f->g.places;
    int16_t *restrict changed = f->w.changed;
    for (int c = first; c < end; c++) {
        const int16_t *own = f->symbols + c * places, fill = f->p->fill[c];
        if (f->reference) {
            const int16_t *held = f->reference + c * places;
            for (ptrdiff_t i = 0; i < places; i++) changed[i] = (int16_t)(changed[i] + (own[i] != held[i]));
        } else
            for (ptrdiff_t i = 0; i < places; i++) changed[i] = (int16_t)(changed[i] + (own[i] != fill));
    }
}

static int has_changes(const plan *p, int layer) {
    for (int k = p->term_first[layer]; k < p->term_first[layer + 1]; k++)
        if (p->terms[k].kind == KIND_CHANGES) return 1;
    return 0;
}

/* Whether a layer needs the changes of the channels before; then they are counted up to its first. */
static int begin_changes(frame *f, int layer) {
    if (!has_changes(f->p, layer)) return 0;
    memset(f->w.changed, 0, (size_t)f->g.places * sizeof *f->w.changed);
    count_changes(f, 0, f->p->layer_first[layer]);
    return 1;
}

static void add_clipped(const context_term *t, const int16_t *restrict symbols, ptrdiff_t places,
                        uint8_t *restrict context) {
    const int clip = t->clip, step = t->step;
    for (ptrdiff_t i = 0; i < places; i++) context[i] = (uint8_t)(context[i] + step * (clamp(symbols[i], clip) + clip));
}

/* Class of the sum of the symbols to the left and above: of a whole channel, which an encoder has. */
static void add_previous(const context_term *t, const int16_t *channel, grid g, work *w) {
    const ptrdiff_t stride = g.width + 1, cells = stride * g.height;
    const int16_t *plane = fill_plane(w, g, channel);
    int16_t *restrict sums = w->sums;
    for (ptrdiff_t i = 0; i < cells; i++) sums[i] = (int16_t)(plane[i - 1] + plane[i - stride]);
    add_classes(t->thresholds, t->threshold_count, t->step, g, 0, w);
}

static const context_term *term_of(const plan *p, int layer, int kind) {
    for (int k = p->term_first[layer]; k < p->term_first[layer + 1]; k++)
        if (p->terms[k].kind == kind) return &p->terms[k];
    return NULL;
}

/* Contexts of a channel from all terms but those that look at the channel itself: checkerboard and previous. */
static void base_contexts(frame *f, int layer, int channel) {
    const plan *p = f->p;
    const ptrdiff_t places = f->g.places, own = channel * places;
    memset(f->w.context, 0, (size_t)places);
    for (int k = p->term_first[layer]; k < p->term_first[layer + 1]; k++) {
        const context_term *t = &p->terms[k];
        if (t->kind == KIND_REFERENCE)
            add_clipped(t, f->reference + own, places, f->w.context);
        else if (t->kind == KIND_REFERENCE_NEIGHBOURHOOD)
            add_neighbourhood(t, f->reference + own, f->g, 0, &f->w);
        else if (t->kind == KIND_LAYER) {
            const int source = p->sources[t->sources + channel - p->layer_first[layer]];
            add_clipped(t, f->symbols + source * places, places, f->w.context);
        } else if (t->kind == KIND_CHANGES)
            add_changes(t, channel, f->g, &f->w);
    }
}

/* ---- Places ---- */

/* Tables of a flag: by those to the left, above, above right and above left. */
static inline int place_context(const uint8_t *flags, int y, int x, int width) {
    const uint8_t *at = flags + (ptrdiff_t)y * width + x;
    const int left = x > 0 ? at[-1] : 0;
    if (y == 0) return left;
    return left + 2 * at[-width] + 4 * (x + 1 < width ? at[1 - width] : 0) + 8 * (x > 0 ? at[-1 - width] : 0);
}

/* From the map to the lists of refreshed places. */
static void list_places(frame *f) {
    const grid g = f->g;
    ptrdiff_t count = 0, half = 0;
    for (ptrdiff_t i = 0; i < g.places; i++)
        if (f->w.flags[i]) f->w.refreshed[count++] = (int32_t)i;
    for (int odd = 0; odd < 2; odd++) {
        for (ptrdiff_t k = 0; k < count; k++) {
            const int32_t i = f->w.refreshed[k];
            if (((i / g.width + i % g.width) & 1) == odd) f->w.halves[half++] = i;
        }
        if (!odd) f->first_half = half;
    }
    f->count = count;
}

/* Where any channel of the first `layers` layers is not its prediction. */
static void find_places(frame *f, int layers) {
    if (!f->mapped) return;
    const ptrdiff_t places = f->g.places;
    int16_t *restrict differs = f->w.changed; /* free until the first layer */
    memset(differs, 0, (size_t)places * sizeof *differs);
    for (int c = 0; c < f->p->layer_first[layers]; c++) {
        const int16_t *own = f->symbols + c * places, *held = f->reference + c * places;
        for (ptrdiff_t i = 0; i < places; i++) differs[i] = (int16_t)(differs[i] | (own[i] ^ held[i]));
    }
    for (ptrdiff_t i = 0; i < places; i++) f->w.flags[i] = differs[i] != 0;
    list_places(f);
}

static uint32_t *place_steps(const frame *f, uint32_t *step) {
    const uint8_t *flags = f->w.flags;
    for (int y = 0; y < f->g.height; y++)
        for (int x = 0; x < f->g.width; x++) {
            const int context = place_context(flags, y, x, f->g.width);
            *step++ = (uint32_t)(f->p->place_slot + 2 * context + flags[(ptrdiff_t)y * f->g.width + x]);
        }
    return step;
}

/* ---- Prediction ---- */

static void predict(const frame *f, int channel, const int16_t *reference) {
    int16_t *out = f->decoded + channel * f->g.places;
    if (reference) {
        memcpy(out, reference + channel * f->g.places, (size_t)f->g.places * sizeof *out);
        return;
    }
    for (ptrdiff_t i = 0; i < f->g.places; i++) out[i] = f->p->fill[channel];
}

static int is_predicted(const frame *f, int channel) {
    const ptrdiff_t places = f->g.places;
    const int16_t *own = f->symbols + channel * places;
    if (f->reference) return memcmp(own, f->reference + channel * places, (size_t)places * sizeof *own) == 0;
    const int16_t fill = f->p->fill[channel];
    int difference = 0;
    for (ptrdiff_t i = 0; i < places; i++) difference |= own[i] ^ fill;
    return difference == 0;
}

/* ---- A layer as steps ---- */

static uint32_t *escape_steps(uint32_t *step, int symbol, int low, int count) {
    const uint32_t value =
        symbol < low ? 2u * (uint32_t)(low - 1 - symbol) + 1u : 2u * (uint32_t)(symbol - low - count);
    uint32_t bits = 0;
    while ((value + 1) >> (bits + 1)) bits++;
    *step++ = RAW | 4u << 16 | bits;
    if (bits) *step++ = RAW | bits << 16 | (value + 1 - (1u << bits));
    return step;
}

static inline uint32_t *symbol_steps(uint32_t *step, const table_ref *t, int symbol) {
    const uint32_t k = (uint32_t)(symbol - t->low);
    if (k < (uint32_t)t->count) {
        *step = t->first + k;
        return step + 1;
    }
    *step++ = t->first + (uint32_t)t->count;
    return escape_steps(step, symbol, t->low, t->count);
}

static uint32_t *plain_channel_steps(uint32_t *step, const table_ref *t, const int16_t *symbols, ptrdiff_t places) {
    int16_t smallest = symbols[0], largest = symbols[0];
    for (ptrdiff_t i = 0; i < places; i++) {
        smallest = symbols[i] < smallest ? symbols[i] : smallest;
        largest = symbols[i] > largest ? symbols[i] : largest;
    }
    if (smallest >= t->low && largest < t->low + t->count) {
        const uint32_t base = t->first - (uint32_t)t->low;
        for (ptrdiff_t i = 0; i < places; i++) step[i] = (uint32_t)((int32_t)base + symbols[i]);
        return step + places;
    }
    for (ptrdiff_t i = 0; i < places; i++) step = symbol_steps(step, t, symbols[i]);
    return step;
}

static uint32_t *context_channel_steps(uint32_t *step, const table_ref *tables, const int16_t *symbols,
                                       const uint8_t *context, grid g, int halves) {
    if (!halves) {
        for (ptrdiff_t i = 0; i < g.places; i++) step = symbol_steps(step, &tables[context[i]], symbols[i]);
        return step;
    }
    for (int half = 0; half < 2; half++)
        for (int y = 0; y < g.height; y++) {
            const ptrdiff_t row = (ptrdiff_t)y * g.width;
            for (int x = (y + half) & 1; x < g.width; x += 2)
                step = symbol_steps(step, &tables[context[row + x]], symbols[row + x]);
        }
    return step;
}

/* The refreshed places only, in the order of `list`. */
static uint32_t *listed_steps(uint32_t *step, const table_ref *tables, const int16_t *symbols, const uint8_t *context,
                              const int32_t *list, ptrdiff_t count) {
    for (ptrdiff_t k = 0; k < count; k++) {
        const int32_t i = list[k];
        step = symbol_steps(step, &tables[context[i]], symbols[i]);
    }
    return step;
}

/* Write a layer's steps, in the decoder's order. `predicted`: the whole layer is its prediction. Returns their end. */
static uint32_t *layer_steps(frame *f, int layer, uint32_t *step, int *predicted) {
    const plan *p = f->p;
    const grid g = f->g;
    const context_term *checkerboard = term_of(p, layer, KIND_CHECKERBOARD);
    const context_term *previous = term_of(p, layer, KIND_PREVIOUS);
    const int has_terms = p->term_first[layer] < p->term_first[layer + 1];
    const int first = p->layer_first[layer], counts = begin_changes(f, layer);
    *predicted = 1;
    if (layer == 0 && f->count > 0) {
        step = place_steps(f, step);
        *predicted = 0;
    }
    for (int c = first; c < p->layer_first[layer + 1]; c++) {
        if (counts && c > first) count_changes(f, c - 1, c);
        const int16_t *own = f->symbols + c * g.places;
        const table_ref *tables = &p->tables[p->context_first[c]];
        const int skip = is_predicted(f, c);
        *predicted &= skip;
        if (p->skip_slot[c] >= 0) {
            *step++ = (uint32_t)(p->skip_slot[c] + skip);
            if (skip) continue;
        }
        if (!has_terms && !f->mapped) {
            step = plain_channel_steps(step, tables, own, g.places);
            continue;
        }
        base_contexts(f, layer, c);
        if (checkerboard) add_neighbourhood(checkerboard, own, g, 1, &f->w);
        if (previous) add_previous(previous, own, g, &f->w);
        if (f->mapped)
            step = listed_steps(step, tables, own, f->w.context, checkerboard ? f->w.halves : f->w.refreshed, f->count);
        else
            step = context_channel_steps(step, tables, own, f->w.context, g, checkerboard != NULL);
    }
    return step;
}

/* ---- Encoder ---- */

typedef struct {
    uint32_t x;
    uint8_t *out; /* writes downwards */
    uint8_t *limit;
    const uint32_t *begin, *step; /* steps still to do: [begin, step) */
} encode_lane;

static inline uint64_t high_product(uint64_t a, uint64_t b) {
#if defined(__SIZEOF_INT128__)
    return (uint64_t)(((unsigned __int128)a * b) >> 64);
#else
    const uint64_t low = (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu), high = (b >> 32) * (a & 0xFFFFFFFFu); /* a < 2^32 */
    return (high + (low >> 32)) >> 32;
#endif
}

#define PUT_WORD(lane)                                         \
    do {                                                       \
        if ((lane).out - (lane).limit < 2) return BUFFER_FULL; \
        (lane).out -= 2;                                       \
        (lane).out[0] = (uint8_t)(lane).x;                     \
        (lane).out[1] = (uint8_t)((lane).x >> 8);              \
        (lane).x >>= 16;                                       \
    } while (0)

/* The state's step for a slot of `freq` from `start` on, out of M = 2^precision: with q = floor(x / freq),
 *     x' = q * M + start + (x mod freq) = q * M + start + (x - q * freq) = x + start + q * (M - freq)
 * so one multiplication is left besides the division: complement = M - freq, bias = start. The division is one too:
 * q = high half of x * ceil(2^64 / freq), exact for x < 2^32. Only freq = 1 has no such reciprocal in 64 bits: 2^64 - 1
 * gives q = x - 1, one too few (x is never 0), so the bias brings the missing M - freq: bias = start + M - 1.
 * Before, a state of x_max = freq * 2^32 / M or more loses its low word, as x' would not fit 32 bits. */
#define ENCODE_STEP(lane)                                                                          \
    do {                                                                                           \
        const uint32_t op = *--(lane).step;                                                        \
        if (op & RAW) {                                                                            \
            const uint32_t bits = (op >> 16) & 31u;                                                \
            if ((lane).x >> (32 - bits)) PUT_WORD(lane);                                           \
            (lane).x = (lane).x << bits | (op & 0xFFFFu);                                          \
        } else {                                                                                   \
            const encode_slot *s = &slots[op];                                                     \
            if ((lane).x >= s->x_max) PUT_WORD(lane);                                              \
            (lane).x += s->bias + (uint32_t)high_product((lane).x, s->reciprocal) * s->complement; \
        }                                                                                          \
    } while (0)

static int run_encoder(const encode_slot *slots, encode_lane *lane_a, encode_lane *lane_b) {
    encode_lane a = *lane_a, b = *lane_b;
    while (a.step > a.begin && b.step > b.begin) {
        ENCODE_STEP(a);
        ENCODE_STEP(b);
    }
    while (a.step > a.begin) ENCODE_STEP(a);
    while (b.step > b.begin) ENCODE_STEP(b);
    *lane_a = a;
    *lane_b = b;
    return 0;
}

static int flush(encode_lane *lane) {
    const uint32_t x = lane->x;
    if (lane->out - lane->limit < 4) return BUFFER_FULL;
    lane->out -= 4;
    for (int k = 0; k < 4; k++) lane->out[k] = (uint8_t)(x >> (8 * k));
    return 0;
}

static int symbols_are_in_range(const int16_t *symbols, ptrdiff_t count) {
    int16_t smallest = 0, largest = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        smallest = symbols[i] < smallest ? symbols[i] : smallest;
        largest = symbols[i] > largest ? symbols[i] : largest;
    }
    return smallest >= -MAGNITUDE_MAX && largest <= MAGNITUDE_MAX;
}

/* Ready a lane for a layer. A layer that is its prediction has no steps and no bytes: 0. */
static int begin_layer(frame *f, int layer, uint32_t *steps, encode_lane *lane) {
    int predicted;
    lane->begin = steps;
    lane->step = layer_steps(f, layer, steps, &predicted);
    if (predicted) lane->step = lane->begin;
    const ptrdiff_t first = f->p->layer_first[layer] * f->g.places, end = f->p->layer_first[layer + 1] * f->g.places;
    lane->x = STATE_LOW + layer_check(f->symbols + first, end - first, layer);
    return !predicted;
}

/* Encode the first `layers` layers. The payload lies at the end of the workspace; lengths[k] are words.
 * Returns payload bytes or an error. */
EXPORT int64_t fs_encode(const plan *p, int height, int width, int layers, const int16_t *symbols,
                         const int16_t *reference, uint8_t *workspace, int64_t size, int32_t *lengths) {
    frame f = {p, {height, width, (ptrdiff_t)height * width}, symbols, reference, NULL, {0}, 0, 0, 0};
    if (!ready_frame(&f, layers, workspace, size)) return BAD_ARGUMENT;
    if (!symbols_are_in_range(symbols, p->layer_first[layers] * f.g.places)) return SYMBOL_TOO_LARGE;
    find_places(&f, layers);
    uint8_t *const end = f.w.out + f.w.capacity, *const lane_a_end = f.w.lane_a_bytes + f.w.capacity;
    uint8_t *top = end;
    uint32_t *const steps_a = f.w.steps, *const steps_b = f.w.steps + steps_max(p, f.g);
    for (int k = layers - 1; k >= 0; k -= 2) { /* layer k in lane b, layer k - 1 in lane a */
        encode_lane a = {0, lane_a_end, f.w.lane_a_bytes, steps_a, steps_a};
        encode_lane b = {0, top, f.w.out, steps_b, steps_b};
        const int b_coded = begin_layer(&f, k, steps_b, &b);
        const int a_coded = k > 0 && begin_layer(&f, k - 1, steps_a, &a);
        if (run_encoder(p->encode_slots, &a, &b) < 0) return BUFFER_FULL;
        if (b_coded && flush(&b) < 0) return BUFFER_FULL;
        if (a_coded && flush(&a) < 0) return BUFFER_FULL;
        lengths[k] = (int32_t)((top - b.out) / 2);
        top = b.out;
        if (k == 0) break;
        const ptrdiff_t bytes = lane_a_end - a.out;
        if (top - f.w.out < bytes) return BUFFER_FULL;
        memcpy(top -= bytes, a.out, (size_t)bytes);
        lengths[k - 1] = (int32_t)(bytes / 2);
    }
    return end - top;
}

/* ---- Decoder ---- */

typedef struct {
    uint32_t x;
    const uint8_t *in, *end;
} decode_lane;

static inline int refill(decode_lane *lane) { /* 0: no word left */
    if (lane->x >= STATE_LOW) return 1;
    if (lane->end - lane->in < 2) return 0;
    lane->x = lane->x << 16 | lane->in[0] | (uint32_t)lane->in[1] << 8;
    lane->in += 2;
    return 1;
}

static int take_bits(decode_lane *lane, unsigned bits, uint32_t *value) {
    *value = lane->x & ((1u << bits) - 1u);
    lane->x >>= bits;
    return refill(lane);
}

static int take_escape(decode_lane *lane, const table_ref *t, int *symbol) {
    uint32_t bits, low = 0;
    if (!take_bits(lane, 4, &bits) || bits > ESCAPE_BITS_MAX) return 0;
    if (bits && !take_bits(lane, bits, &low)) return 0;
    const uint32_t value = (1u << bits) + low - 1u;
    const int distance = (int)(value >> 1);
    *symbol = value & 1u ? t->low - 1 - distance : t->low + t->count + distance;
    return *symbol >= -MAGNITUDE_MAX && *symbol <= MAGNITUDE_MAX;
}

typedef struct {
    const uint32_t *slots;
    const uint8_t *slot_of;
    uint32_t precision;
} slot_tables;

static inline int take_symbol(decode_lane *lane, const slot_tables *tables, const table_ref *t, int16_t *out) {
    const uint32_t c = lane->x & ((1u << tables->precision) - 1u);
    const uint32_t k = tables->slot_of[((size_t)t->table << tables->precision) + c];
    const uint32_t slot = tables->slots[t->first + k];
    int symbol = t->low + (int)k;
    lane->x = (slot >> 16) * (lane->x >> tables->precision) + c - (slot & 0xFFFFu);
    if (!refill(lane)) return 0;
    if (k == (uint32_t)t->count && !take_escape(lane, t, &symbol)) return 0;
    *out = (int16_t)symbol;
    return 1;
}

static int take_plain_channel(decode_lane *lane_, const slot_tables *tables_, const table_ref *t_, int16_t *symbols,
                              ptrdiff_t places) {
    decode_lane lane = *lane_; /* copies, so that they live in registers */
    const slot_tables tables = *tables_;
    const table_ref t = *t_;
    for (ptrdiff_t i = 0; i < places; i++)
        if (!take_symbol(&lane, &tables, &t, symbols + i)) return 0;
    *lane_ = lane;
    return 1;
}

static int take_context_places(decode_lane *lane_, const slot_tables *tables_, const table_ref *refs,
                               const uint8_t *context, int16_t *symbols, grid g, int half) {
    decode_lane lane = *lane_;
    const slot_tables tables = *tables_;
    const int stride = half < 0 ? 1 : 2;
    for (int y = 0; y < g.height; y++) {
        const ptrdiff_t row = (ptrdiff_t)y * g.width;
        for (int x = half < 0 ? 0 : (y + half) & 1; x < g.width; x += stride)
            if (!take_symbol(&lane, &tables, &refs[context[row + x]], symbols + row + x)) return 0;
    }
    *lane_ = lane;
    return 1;
}

static int take_listed_places(decode_lane *lane_, const slot_tables *tables_, const table_ref *refs,
                              const uint8_t *context, int16_t *symbols, const int32_t *list, ptrdiff_t count) {
    decode_lane lane = *lane_;
    const slot_tables tables = *tables_;
    for (ptrdiff_t k = 0; k < count; k++)
        if (!take_symbol(&lane, &tables, &refs[context[list[k]]], symbols + list[k])) return 0;
    *lane_ = lane;
    return 1;
}

/* The class of what lies to the left and above is known only when these are: place by place, `list` or row by row. */
static int take_previous_places(decode_lane *lane_, const slot_tables *tables_, const table_ref *refs,
                                const uint8_t *context, const context_term *previous, int16_t *symbols, grid g,
                                const int32_t *list, ptrdiff_t count) {
    decode_lane lane = *lane_;
    const slot_tables tables = *tables_;
    for (ptrdiff_t k = 0; k < count; k++) {
        const ptrdiff_t i = list ? list[k] : k;
        const int left = i % g.width ? symbols[i - 1] : 0, above = i >= g.width ? symbols[i - g.width] : 0;
        int value = 0;
        for (int n = 0; n < previous->threshold_count; n++) value += left + above >= previous->thresholds[n];
        if (!take_symbol(&lane, &tables, &refs[context[i] + previous->step * value], symbols + i)) return 0;
    }
    *lane_ = lane;
    return 1;
}

/* Which of the two slots from `first_slot` was coded. */
static int take_flag(decode_lane *lane, const plan *p, int first_slot, int *flag) {
    const uint32_t c = lane->x & ((1u << p->precision) - 1u);
    const uint32_t *pair = &p->decode_slots[first_slot];
    *flag = c >= (pair[1] & 0xFFFFu);
    const uint32_t slot = pair[*flag];
    lane->x = (slot >> 16) * (lane->x >> p->precision) + c - (slot & 0xFFFFu);
    return refill(lane);
}

static int take_places(decode_lane *lane, frame *f) {
    for (int y = 0; y < f->g.height; y++)
        for (int x = 0; x < f->g.width; x++) {
            const int context = place_context(f->w.flags, y, x, f->g.width);
            int flag;
            if (!take_flag(lane, f->p, f->p->place_slot + 2 * context, &flag)) return 0;
            f->w.flags[(ptrdiff_t)y * f->g.width + x] = (uint8_t)flag;
        }
    list_places(f);
    return f->count > 0; /* a map without a place is no layer 0 */
}

static int take_channel(decode_lane *lane, frame *f, int layer, int channel) {
    const plan *p = f->p;
    const grid g = f->g;
    const slot_tables tables = {p->decode_slots, p->slot_of, (uint32_t)p->precision};
    const table_ref *refs = &p->tables[p->context_first[channel]];
    const context_term *checkerboard = term_of(p, layer, KIND_CHECKERBOARD);
    const context_term *previous = term_of(p, layer, KIND_PREVIOUS);
    int16_t *own = f->decoded + channel * g.places;
    if (p->skip_slot[channel] >= 0) {
        int skip;
        if (!take_flag(lane, p, p->skip_slot[channel], &skip)) return 0;
        if (skip) {
            predict(f, channel, f->reference);
            return 1;
        }
    }
    if (f->mapped) predict(f, channel, f->reference);
    else if (p->term_first[layer] == p->term_first[layer + 1])
        return take_plain_channel(lane, &tables, refs, own, g.places);
    base_contexts(f, layer, channel);
    if (previous)
        return take_previous_places(lane, &tables, refs, f->w.context, previous, own, g,
                                    f->mapped ? f->w.refreshed : NULL, f->mapped ? f->count : g.places);
    if (f->mapped) {
        const int32_t *list = checkerboard ? f->w.halves : f->w.refreshed;
        const ptrdiff_t half = checkerboard ? f->first_half : f->count;
        if (!take_listed_places(lane, &tables, refs, f->w.context, own, list, half)) return 0;
        if (!checkerboard) return 1;
        add_neighbourhood(checkerboard, own, g, 1, &f->w);
        return take_listed_places(lane, &tables, refs, f->w.context, own, list + half, f->count - half);
    }
    if (!checkerboard) return take_context_places(lane, &tables, refs, f->w.context, own, g, -1);
    if (!take_context_places(lane, &tables, refs, f->w.context, own, g, 0)) return 0;
    add_neighbourhood(checkerboard, own, g, 1, &f->w);
    return take_context_places(lane, &tables, refs, f->w.context, own, g, 1);
}

static int take_layer(frame *f, int layer, const uint8_t *bytes, ptrdiff_t size) {
    const int first = f->p->layer_first[layer], end = f->p->layer_first[layer + 1];
    if (size == 0) {
        for (int c = first; c < end; c++) predict(f, c, f->reference);
        return 1;
    }
    if (size < 4) return 0;
    decode_lane lane = {0, bytes + 4, bytes + size};
    for (int k = 0; k < 4; k++) lane.x |= (uint32_t)bytes[k] << (8 * k);
    if (lane.x < STATE_LOW) return 0;
    if (f->mapped && layer == 0 && !take_places(&lane, f)) return 0;
    if (f->mapped && f->count == 0) return 0;
    const int counts = begin_changes(f, layer);
    for (int c = first; c < end; c++) {
        if (counts && c > first) count_changes(f, c - 1, c);
        if (!take_channel(&lane, f, layer, c)) return 0;
    }
    const uint32_t check = layer_check(f->symbols + first * f->g.places, (end - first) * f->g.places, layer);
    return lane.in == lane.end && lane.x == STATE_LOW + check;
}

/* Decode up to `layers` layers of `lengths` words from `payload`; channels of the others become fill.
 * Returns the number of good layers, a prefix, or an error. */
EXPORT int64_t fs_decode(const plan *p, int height, int width, int layers, const uint8_t *payload, int64_t size,
                         const int32_t *lengths, const int16_t *reference, int16_t *symbols, uint8_t *workspace,
                         int64_t workspace_size) {
    frame f = {p, {height, width, (ptrdiff_t)height * width}, symbols, reference, symbols, {0}, 0, 0, 0};
    if (!p->slot_of || !ready_frame(&f, layers, workspace, workspace_size)) return BAD_ARGUMENT;
    int good = 0;
    for (; good < layers; good++) {
        const int64_t bytes = 2 * (int64_t)lengths[good];
        if (bytes < 0 || bytes > size || !take_layer(&f, good, payload, (ptrdiff_t)bytes)) break;
        payload += bytes;
        size -= bytes;
    }
    for (int c = p->layer_first[good]; c < p->channels; c++) predict(&f, c, NULL);
    return good;
}

/* ---- Estimate ---- */

/* Cost of each layer in 1/65536 bits, without the coder's state and the header. */
EXPORT int64_t fs_estimate(const plan *p, int height, int width, int layers, const int16_t *symbols,
                           const int16_t *reference, uint8_t *workspace, int64_t size, uint64_t *costs) {
    frame f = {p, {height, width, (ptrdiff_t)height * width}, symbols, reference, NULL, {0}, 0, 0, 0};
    if (!ready_frame(&f, layers, workspace, size)) return BAD_ARGUMENT;
    if (!symbols_are_in_range(symbols, p->layer_first[layers] * f.g.places)) return SYMBOL_TOO_LARGE;
    find_places(&f, layers);
    for (int k = 0; k < layers; k++) {
        int predicted;
        uint64_t cost = 0;
        const uint32_t *end = layer_steps(&f, k, f.w.steps, &predicted);
        for (const uint32_t *step = f.w.steps; step < end; step++)
            cost += *step & RAW ? (uint64_t)((*step >> 16) & 31u) << 16 : p->costs[*step];
        costs[k] = predicted ? 0 : cost;
    }
    return 0;
}

EXPORT int fs_abi(void) { return ABI; }
