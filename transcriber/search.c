/* The inner loops of the search: n-gram model, phrases, prefix beam search, alignment. transcriber/native.py compiles
   and loads this file. Arrays belong to the caller and stay where they are as long as what was made from them is used.
   No function keeps state of its own, so that threads may search at the same time, each with its own Search. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = -1, ROOT = 0, OUT_OF_MEMORY = -1, TOO_FEW_FRAMES = -2, TRACKED_TOKENS = 64, WORD_BREAK = 256 };

/* A tree whose nodes are numbered in breadth-first order: the children of a node follow one another, by label. */
typedef struct {
    const int32_t *first;  /* [nodes + 1]: the first child of each node */
    const int32_t *labels; /* [nodes] */
} Tree;

/* The words of an n-gram model of words. Nodes are the beginnings of words, labels are bytes. */
typedef struct {
    Tree tree;
    const int32_t *words;       /* the word that a node is, or NONE */
    const int32_t *piece_first; /* [tokens + 1]: where the bytes of each token begin */
    const int32_t *characters;  /* the bytes, and WORD_BREAK between words */
    int32_t unknown;            /* the label of an unknown word in the n-gram model */
} Lexicon;

/* Nodes are n-grams. `shorter` is the longest shorter past in the tree, `states` the longest past with children. */
typedef struct {
    Tree tree;
    const double *log_probs, *backoffs;
    const int32_t *shorter, *states;
    int32_t start, boundary;
    const Lexicon *lexicon; /* NULL for a model of tokens */
} Ngram;

/* An automaton over the characters of phrases (Aho and Corasick, 1975). Its nodes are the beginnings of phrases. A
   phrase of a language with words begins with the label of a word's begin, which is not one of its letters. */
typedef struct {
    Tree tree;
    const int32_t *shorter;     /* the longest end of a node's text that begins a phrase too */
    const int32_t *letters;     /* the letters of a node */
    const int32_t *ended;       /* the letters of the longest phrase that a node ends with, 0 for none */
    const int32_t *piece_first; /* [tokens + 1]: where the characters of each token begin */
    const int32_t *characters;  /* their labels, NONE for a character of no phrase */
    const uint8_t *ends_word;   /* whether a phrase may end before a character */
    int32_t start;
    double bonus;
} Phrases;

/* A node of the tree of prefixes; the same prefix is always the same node. The last TRACKED_TOKENS tokens have a bit
   each in `covered`, the last one in the lowest: whether a completed phrase contains it. */
typedef struct {
    int32_t parent, token, first_child, sibling;
    int32_t state, node, length;
    int32_t spelled; /* the begin of the last word in the lexicon, or NONE where no word begins like it */
    int32_t candidate; /* its place among the candidates of the frame, or NONE */
    uint64_t covered;
    double lm_log_prob, lm_score;
    double credit;             /* what its last token adds if a phrase contains it */
    double completed, pending; /* the credits of the tokens in completed phrases, and in one that may still be */
} Prefix;

/* The scores of a prefix: its alignments that end in blank, and those that end in its last token. */
typedef struct {
    int32_t prefix;
    double in_blank, in_token;
} Candidate;

typedef struct {
    const Ngram *ngram;
    const Phrases *phrases;
    double weight, bonus;
    const uint8_t *followed; /* [tokens]: whether a token is text */
    float negligible;
    int32_t width;
    Prefix *prefixes;
    int32_t prefix_count, prefix_room;
    Candidate *beam, *candidates, *ranked;
    double *totals;
    int32_t beam_size, candidate_count;
    size_t candidate_room;
    double most; /* what the models add to a prefix that becomes longer by a token, at most */
    double *in_either; /* the scores of the beam, ended in blank or in a token */
} Search;

static double log_add(double first, double second) {
    if (first < second) {
        double smaller = first;
        first = second;
        second = smaller;
    }
    /* expm1 is in every glibc; the exp of today's headers is in glibc 2.29 and later only. */
    return second == -INFINITY ? first : first + log1p(1.0 + expm1(second - first));
}

static double total(const Candidate *one) { return log_add(one->in_blank, one->in_token); }

static int32_t child(const Tree *tree, int32_t node, int32_t label) {
    int32_t low = tree->first[node], high = tree->first[node + 1];
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (tree->labels[middle] < label) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < tree->first[node + 1] && tree->labels[low] == label ? low : NONE;
}

/* Fill `shorter` and `states` of an n-gram model. Parents come before their children. */
void link_ngram(int32_t nodes, const int32_t *first, const int32_t *labels, int32_t *shorter, int32_t *states) {
    const Tree tree = {first, labels};
    shorter[ROOT] = states[ROOT] = ROOT;
    for (int32_t parent = 0; parent < nodes; parent++) {
        for (int32_t node = first[parent]; node < first[parent + 1]; node++) {
            int32_t past = parent, found = NONE;
            while (past != ROOT && found == NONE) {
                past = shorter[past];
                found = child(&tree, past, labels[node]);
            }
            shorter[node] = found == NONE ? ROOT : found;
            states[node] = first[node] < first[node + 1] ? node : states[shorter[node]];
        }
    }
}

/* Return the log-probability of a token and move `state` on; NAN for a token that the model lacks. */
double ngram_after(const Ngram *model, int32_t *state, int32_t token) {
    double log_prob = 0.0;
    int32_t past = *state, node = child(&model->tree, past, token);
    while (node == NONE) {
        if (past == ROOT) {
            return NAN;
        }
        log_prob += model->backoffs[past];
        past = model->shorter[past];
        node = child(&model->tree, past, token);
    }
    *state = model->states[node];
    log_prob += model->log_probs[node];
    /* With rounded values the sum may be a little above 0. */
    return log_prob < 0.0 ? log_prob : 0.0;
}

/* End a word, if one was begun: return its log-probability and move `state` on. */
static double end_word(const Ngram *model, int32_t *state, int32_t *spelled) {
    double log_prob = 0.0;
    if (*spelled != ROOT && *spelled != NONE) {
        int32_t word = model->lexicon->words[*spelled];
        log_prob = ngram_after(model, state, word == NONE ? model->lexicon->unknown : word);
    }
    *spelled = ROOT;
    return log_prob;
}

/* Return the log-probability of the words that a token ends, or that are unknown from it on; move `state` and `spelled`. */
static double spell(const Ngram *model, int32_t *state, int32_t *spelled, int32_t token) {
    const Lexicon *lexicon = model->lexicon;
    double log_prob = 0.0;
    for (int32_t place = lexicon->piece_first[token]; place < lexicon->piece_first[token + 1]; place++) {
        int32_t label = lexicon->characters[place];
        if (label == WORD_BREAK) {
            log_prob += end_word(model, state, spelled);
        } else if (*spelled != NONE) {
            *spelled = child(&lexicon->tree, *spelled, label);
            log_prob += *spelled == NONE ? ngram_after(model, state, lexicon->unknown) : 0.0;
        }
    }
    return log_prob;
}

/* Return what an n-gram model adds for a token, and move the state of a prefix on. */
static double after_token(const Ngram *model, Prefix *prefix, int32_t token) {
    return model->lexicon == NULL ? ngram_after(model, &prefix->state, token)
                                  : spell(model, &prefix->state, &prefix->spelled, token);
}

/* Return the log-probability of the end of a text behind a prefix. */
static double at_end(const Ngram *model, const Prefix *prefix) {
    int32_t state = prefix->state, spelled = prefix->spelled;
    double word = model->lexicon == NULL ? 0.0 : end_word(model, &state, &spelled);
    return word + ngram_after(model, &state, model->boundary);
}

static int32_t step(const Phrases *phrases, int32_t node, int32_t label) {
    if (label == NONE) {
        return ROOT;
    }
    int32_t next = child(&phrases->tree, node, label);
    while (next == NONE && node != ROOT) {
        node = phrases->shorter[node];
        next = child(&phrases->tree, node, label);
    }
    return next == NONE ? ROOT : next;
}

static int32_t size_of_token(const Phrases *phrases, int32_t token) {
    return phrases->piece_first[token + 1] - phrases->piece_first[token];
}

/* Return the bits of the last tokens that contain the last `letters`; `own` of them are of `token`, after `prefix`. */
static uint64_t tokens_of(const Search *search, int32_t prefix, int32_t token, int32_t own, int32_t letters) {
    uint64_t bits = 0, bit = 1;
    int32_t size = own;
    while (letters > 0 && token != NONE && bit != 0) {
        bits |= size > 0 ? bit : 0;
        letters -= size;
        bit <<= 1;
        token = search->prefixes[prefix].token;
        size = token == NONE ? 0 : size_of_token(search->phrases, token);
        prefix = search->prefixes[prefix].parent;
    }
    return bits;
}

/* Return the sum of the credits of some of the last tokens. */
static double credits(const Search *search, const Prefix *prefix, uint64_t bits) {
    double sum = 0.0;
    for (; bits; bits >>= 1) {
        sum += bits & 1 ? prefix->credit : 0.0;
        prefix = bits > 1 ? &search->prefixes[prefix->parent] : prefix;
    }
    return sum;
}

/* Set what the phrases make of a prefix: every token of a phrase that is completed or may still be has its credit. */
static void cover(const Search *search, Prefix *longer) {
    const Phrases *phrases = search->phrases;
    const Prefix *prefix = &search->prefixes[longer->parent];
    const int32_t begin = phrases->piece_first[longer->token], end = phrases->piece_first[longer->token + 1];
    int32_t node = prefix->node;
    longer->covered = prefix->covered << 1;
    longer->completed = prefix->completed;
    for (int32_t place = begin; place < end; place++) {
        if (phrases->ends_word[place] && phrases->ended[node] > 0) {
            uint64_t bits = tokens_of(search, longer->parent, longer->token, place - begin, phrases->ended[node]);
            longer->completed += credits(search, longer, bits & ~longer->covered);
            longer->covered |= bits;
        }
        node = step(phrases, node, phrases->characters[place]);
    }
    longer->node = node;
    uint64_t bits = tokens_of(search, longer->parent, longer->token, end - begin, phrases->letters[node]);
    longer->pending = credits(search, longer, bits & ~longer->covered);
}

/* Return the credits of the tokens in phrases if the text ends here. */
static double completed_at_end(const Search *search, const Prefix *prefix) {
    if (search->phrases == NULL || prefix->token == NONE) {
        return 0.0;
    }
    int32_t letters = search->phrases->ended[prefix->node];
    uint64_t bits = tokens_of(
        search, prefix->parent, prefix->token, size_of_token(search->phrases, prefix->token), letters);
    return prefix->completed + credits(search, prefix, bits & ~prefix->covered);
}

/* Return what the models add to the score of a prefix while more tokens may follow. */
static double added(const Prefix *prefix) {
    return prefix->lm_score + prefix->completed + prefix->pending;
}

static int32_t find_longer(const Search *search, int32_t prefix, int32_t token) {
    int32_t longer = search->prefixes[prefix].first_child;
    while (longer != NONE && search->prefixes[longer].token != token) {
        longer = search->prefixes[longer].sibling;
    }
    return longer;
}

/* Add the prefix that is longer by a token; NONE when memory is short. */
static int32_t add_longer(Search *search, int32_t parent, int32_t token) {
    if (search->prefix_count == search->prefix_room) {
        if (search->prefix_room > INT32_MAX / 2) {
            return NONE;
        }
        Prefix *more = realloc(search->prefixes, 2 * (size_t)search->prefix_room * sizeof(Prefix));
        if (more == NULL) {
            return NONE;
        }
        search->prefixes = more;
        search->prefix_room *= 2;
    }
    int32_t place = search->prefix_count++;
    Prefix *prefix = &search->prefixes[parent], *longer = &search->prefixes[place];
    *longer = *prefix;
    longer->parent = parent;
    longer->token = token;
    longer->length = prefix->length + 1;
    longer->first_child = longer->candidate = NONE;
    longer->sibling = prefix->first_child;
    prefix->first_child = place;
    double change = 0.0;
    if (search->ngram != NULL) {
        double log_prob = after_token(search->ngram, longer, token);
        longer->lm_log_prob += log_prob;
        change = search->weight * log_prob + search->bonus;
        longer->lm_score += change;
    }
    if (search->phrases != NULL) {
        /* Names are rare in the text that the n-gram model was counted on: they lose nothing by it. */
        longer->credit = search->phrases->bonus - (change < 0.0 ? change : 0.0);
        cover(search, longer);
    }
    return place;
}

/* Keep the best `width` candidates, best first; earlier ones first among equals. */
static void keep_best(Search *search) {
    int32_t kept = 0;
    for (int32_t each = 0; each < search->candidate_count; each++) {
        double score = total(&search->candidates[each]);
        int32_t place = kept;
        while (place > 0 && score > search->totals[place - 1]) {
            place--;
        }
        if (place >= search->width) {
            continue;
        }
        if (kept < search->width) {
            kept++;
        }
        for (int32_t moved = kept - 1; moved > place; moved--) {
            search->totals[moved] = search->totals[moved - 1];
            search->ranked[moved] = search->ranked[moved - 1];
        }
        search->totals[place] = score;
        search->ranked[place] = search->candidates[each];
    }
    memcpy(search->beam, search->ranked, (size_t)kept * sizeof(Candidate));
    search->beam_size = kept;
}

/* Make the prefixes of the beam the first candidates of a frame, ended by blank. Return the score that a new prefix must
   exceed. */
static double begin_frame(Search *search, double blank) {
    int is_full = search->beam_size >= search->width;
    double bound = is_full ? INFINITY : -INFINITY;
    for (int32_t each = 0; each < search->beam_size; each++) {
        const Candidate *one = &search->beam[each];
        search->in_either[each] = total(one);
        double ended = search->in_either[each] + blank;
        search->candidates[each] = (Candidate){one->prefix, ended, -INFINITY};
        search->prefixes[one->prefix].candidate = each;
        /* A new prefix has only one parent: one that is worse than `width` others already cannot get better. */
        bound = is_full && ended < bound ? ended : bound;
    }
    search->candidate_count = search->beam_size;
    return bound;
}

/* Extend a prefix of the beam by a token. Return 0, or OUT_OF_MEMORY. */
static int32_t follow(Search *search, int32_t place, int32_t token, double log_prob, double bound) {
    const Candidate *one = &search->beam[place];
    double score = search->in_either[place] + log_prob;
    if (token == search->prefixes[one->prefix].token) {
        /* The same token again continues the same sound, unless a blank lies between. */
        double *same = &search->candidates[place].in_token;
        *same = log_add(*same, one->in_token + log_prob);
        score = one->in_blank + log_prob;
    }
    int32_t longer = find_longer(search, one->prefix, token);
    if (longer == NONE) {
        if (score + search->most <= bound) {
            return 0;
        }
        longer = add_longer(search, one->prefix, token);
        if (longer == NONE) {
            return OUT_OF_MEMORY;
        }
    }
    score += added(&search->prefixes[longer]) - added(&search->prefixes[one->prefix]);
    int32_t *candidate = &search->prefixes[longer].candidate;
    if (*candidate == NONE && score > bound) {
        *candidate = search->candidate_count++;
        search->candidates[*candidate] = (Candidate){longer, -INFINITY, -INFINITY};
    }
    if (*candidate != NONE && (*candidate < search->beam_size || score > bound)) {
        double *sum = &search->candidates[*candidate].in_token;
        *sum = log_add(*sum, score);
    }
    return 0;
}

static void end_frame(Search *search) {
    for (int32_t each = 0; each < search->candidate_count; each++) {
        search->prefixes[search->candidates[each].prefix].candidate = NONE;
    }
    if (search->candidate_count > search->width) {
        keep_best(search);
        return;
    }
    memcpy(search->beam, search->candidates, (size_t)search->candidate_count * sizeof(Candidate));
    search->beam_size = search->candidate_count;
}

/* Extend the beam by a frame: its list of log-probabilities and tokens, and the log-probability of blank. */
static int32_t extend(Search *search, int32_t list_size, const float *log_probs, const int32_t *tokens, double blank) {
    double bound = begin_frame(search, blank);
    for (int32_t each = 0; each < search->beam_size; each++) {
        for (int32_t place = 0; place < list_size; place++) {
            int is_followed = log_probs[place] > search->negligible && search->followed[tokens[place]];
            if (is_followed && follow(search, each, tokens[place], log_probs[place], bound)) {
                return OUT_OF_MEMORY;
            }
        }
    }
    end_frame(search);
    return 0;
}

void free_search(Search *search) {
    if (search != NULL) {
        free(search->prefixes);
        free(search->beam);
        free(search->candidates);
        free(search->ranked);
        free(search->totals);
        free(search->in_either);
        free(search);
    }
}

/* Return a search, or NULL when memory is short. `ngram` and `phrases` may be NULL. */
Search *new_search(int32_t width, float negligible, const uint8_t *followed, const Ngram *ngram, double weight,
                   double bonus, const Phrases *phrases) {
    Search *search = calloc(1, sizeof(Search));
    if (search == NULL) {
        return NULL;
    }
    search->ngram = ngram;
    search->phrases = phrases;
    search->weight = weight;
    search->bonus = bonus;
    search->followed = followed;
    search->negligible = negligible;
    search->width = width;
    /* An n-gram model can only lower the score of a longer prefix, so it rises by the bonuses at most. A token's credit
       makes up for what the token loses by the n-gram model and its bonus. */
    search->most = ngram == NULL ? 0.0 : bonus;
    if (phrases != NULL) {
        search->most = (search->most > 0.0 ? search->most : 0.0) + phrases->bonus;
    }
    search->prefix_room = 64;
    search->prefixes = calloc((size_t)search->prefix_room, sizeof(Prefix));
    search->beam = calloc((size_t)width, sizeof(Candidate));
    search->ranked = calloc((size_t)width, sizeof(Candidate));
    search->totals = calloc((size_t)width, sizeof(double));
    search->in_either = calloc((size_t)width, sizeof(double));
    if (!search->prefixes || !search->beam || !search->ranked || !search->totals || !search->in_either) {
        free_search(search);
        return NULL;
    }
    Prefix *root = &search->prefixes[ROOT];
    root->parent = root->token = root->first_child = root->sibling = root->candidate = NONE;
    root->state = ngram == NULL ? 0 : ngram->start;
    root->node = phrases == NULL ? ROOT : phrases->start;
    search->prefix_count = 1;
    search->beam[0] = (Candidate){ROOT, 0.0, -INFINITY};
    search->beam_size = 1;
    return search;
}

/* Make room for all candidates of a frame. */
static int32_t reserve_candidates(Search *search, int32_t list_size) {
    size_t room = (size_t)search->width * ((size_t)list_size + 1);
    if (room > search->candidate_room) {
        Candidate *more = realloc(search->candidates, room * sizeof(Candidate));
        if (more == NULL) {
            return OUT_OF_MEMORY;
        }
        search->candidates = more;
        search->candidate_room = room;
    }
    return 0;
}

/* Continue over frames: lists of log-probabilities and tokens, and each frame's log-probability of blank. Return 0, or
   OUT_OF_MEMORY. */
int32_t advance_search(Search *search, int32_t frames, int32_t list_size, const float *log_probs,
                       const int32_t *tokens, const float *blanks) {
    int32_t error = reserve_candidates(search, list_size);
    for (int32_t frame = 0; frame < frames && !error; frame++) {
        size_t offset = (size_t)frame * (size_t)list_size;
        error = extend(search, list_size, log_probs + offset, tokens + offset, blanks[frame]);
    }
    return error;
}

/* Write the hypotheses if no more frames come: the log-probability by emissions, by the n-gram model and what the models
   add, and the number of tokens. Return the number of hypotheses, at most `width`. */
int32_t read_search(const Search *search, double *scores, int32_t *lengths) {
    for (int32_t each = 0; each < search->beam_size; each++) {
        const Prefix *prefix = &search->prefixes[search->beam[each].prefix];
        double end = search->ngram == NULL ? 0.0 : at_end(search->ngram, prefix);
        double phrases = completed_at_end(search, prefix);
        scores[3 * each] = total(&search->beam[each]) - added(prefix);
        scores[3 * each + 1] = prefix->lm_log_prob + end;
        scores[3 * each + 2] = prefix->lm_score + search->weight * end + phrases;
        lengths[each] = prefix->length;
    }
    return search->beam_size;
}

/* Write the tokens of a hypothesis, as many as read_search wrote. */
void read_tokens(const Search *search, int32_t hypothesis, int32_t *tokens) {
    int32_t prefix = search->beam[hypothesis].prefix;
    for (int32_t place = search->prefixes[prefix].length - 1; place >= 0; place--) {
        tokens[place] = search->prefixes[prefix].token;
        prefix = search->prefixes[prefix].parent;
    }
}

/* Return the hypothesis that is best so far, while more frames may come; write its number of tokens. */
int32_t best_partial(const Search *search, int32_t *length) {
    int32_t best = 0;
    for (int32_t each = 1; each < search->beam_size; each++) {
        best = total(&search->beam[each]) > total(&search->beam[best]) ? each : best;
    }
    *length = search->prefixes[search->beam[best].prefix].length;
    return best;
}

/* Fill the scores of the states blank, token, blank, ..., blank in a frame; `floor` is that of a token not listed. */
static void score_states(float *scores, int32_t list_size, const float *log_probs, const int32_t *listed, float floor,
                         int32_t blank, int32_t length, const int32_t *tokens) {
    float blank_score = floor;
    for (int32_t each = 0; each < length; each++) {
        scores[2 * each + 1] = floor;
    }
    for (int32_t place = 0; place < list_size; place++) {
        blank_score = listed[place] == blank ? log_probs[place] : blank_score;
        for (int32_t each = 0; each < length; each++) {
            scores[2 * each + 1] = listed[place] == tokens[each] ? log_probs[place] : scores[2 * each + 1];
        }
    }
    for (int32_t each = 0; each <= length; each++) {
        scores[2 * each] = blank_score;
    }
}

/* Fill the best way into each state of a frame: rising by 0, 1, or by 2 over a blank between unlike tokens. */
static void step_states(int32_t states, const float *scores, const int32_t *tokens, double *totals, int8_t *steps) {
    /* Downwards, so that the states below still have the totals of the frame before. */
    for (int32_t state = states - 1; state >= 0; state--) {
        double best = totals[state];
        steps[state] = 0;
        if (state >= 1 && totals[state - 1] > best) {
            best = totals[state - 1];
            steps[state] = 1;
        }
        int may_skip = state >= 3 && state % 2 == 1 && tokens[state / 2] != tokens[state / 2 - 1];
        if (may_skip && totals[state - 2] > best) {
            best = totals[state - 2];
            steps[state] = 2;
        }
        totals[state] = best + scores[state];
    }
}

/* Align tokens, at least one, with frames: write the first and the last frame of each and its best log-probability among
   them. Return 0, TOO_FEW_FRAMES or OUT_OF_MEMORY. */
int32_t align_tokens(int32_t frames, int32_t list_size, const float *log_probs, const int32_t *listed,
                     const float *floors, int32_t blank, int32_t length, const int32_t *tokens, int32_t *firsts,
                     int32_t *lasts, float *best) {
    const size_t states = 2 * (size_t)length + 1;
    float *scores = malloc((size_t)frames * states * sizeof(float) + 1);
    int8_t *steps = malloc((size_t)frames * states + 1);
    double *totals = malloc(states * sizeof(double));
    int32_t error = scores == NULL || steps == NULL || totals == NULL ? OUT_OF_MEMORY : 0;
    if (!error) {
        for (size_t state = 0; state < states; state++) {
            totals[state] = state == 0 ? 0.0 : -INFINITY;
        }
        for (int32_t token = 0; token < length; token++) {
            firsts[token] = NONE;
        }
        for (int32_t frame = 0; frame < frames; frame++) {
            float *row = scores + (size_t)frame * states;
            size_t offset = (size_t)frame * (size_t)list_size;
            score_states(row, list_size, log_probs + offset, listed + offset, floors[frame], blank, length, tokens);
            step_states((int32_t)states, row, tokens, totals, steps + (size_t)frame * states);
        }
        size_t state = totals[states - 1] >= totals[states - 2] ? states - 1 : states - 2;
        error = isfinite(totals[state]) ? 0 : TOO_FEW_FRAMES;
        for (int32_t frame = frames - 1; frame >= 0 && !error; frame--) {
            size_t token = state / 2;
            float score = scores[(size_t)frame * states + state];
            if (state % 2 == 1) {
                if (firsts[token] == NONE) {
                    lasts[token] = frame;
                    best[token] = score;
                }
                firsts[token] = frame;
                best[token] = score > best[token] ? score : best[token];
            }
            state -= (size_t)steps[(size_t)frame * states + state];
        }
    }
    free(scores);
    free(steps);
    free(totals);
    return error;
}
