"""ONNX networks of a few nodes with the tensors of the catalogue.

They recognise nothing, but shapes, types and batch items are exact, and the outputs are log-probabilities and unit
vectors as the health probe expects.
"""

import onnx
import onnx.parser

_HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
# Eight numbers make a frame of the encoder: the first samples of 1,360, every 640 samples.
_FRAMES = """
            kept = Slice(audio, from, to, axes)
            upright = Unsqueeze (kept, axes)
            columns = Conv <strides = [640]> (upright, first)
            rows = Transpose <perm = [0, 2, 1]> (columns)
            current = Cast <to = 10> (rows)
            beyond = Sub (audio_lengths, before)
            counted = Div (beyond, hop)"""
_CONSTANTS = """int64[1] from = {0}, int64[1] to = {-1352}, int64[1] axes = {1}, float[8, 1, 8] first = {IDENTITY},
         int32[1] before = {720}, int32[1] hop = {640}, int32[1] one = {1}"""
_SOURCES = {
    "body": """
        body (float[b, s] audio, int32[b] audio_lengths) => (float16[b, e, 8] encoder_out, int32[b] encoder_lengths)
        <CONSTANTS>
        {FRAMES
            encoder_out = Identity (current)
            encoder_lengths = Max (counted, one)
        }""",
    # The same for a window of a stream; adds the number of past frames, which the states carry.
    "body-realtime": """
        body (float[b, 5840] audio, int32[b] audio_lengths, float16[b, 1, 2, 128, 8] state_attention,
              float16[b, 1, 2, 8] state_convolution, int32[b, 1] state_frames)
            => (float16[b, 8, 8] encoder_out, int32[b] encoder_lengths,
                float16[b, 1, 2, 128, 8] next_state_attention, float16[b, 1, 2, 8] next_state_convolution,
                int32[b, 1] next_state_frames)
        <CONSTANTS, int32[1] chunk = {8}, int32[1] most = {128}, int64[1] last = {-1}>
        {FRAMES
            past = Cast <to = 10> (state_frames)
            column = Unsqueeze (past, last)
            encoder_out = Add (current, column)
            encoder_lengths = Max (counted, one)
            next_state_attention = Identity (state_attention)
            next_state_convolution = Identity (state_convolution)
            more = Add (state_frames, chunk)
            next_state_frames = Min (more, most)
        }""",
    "am_en": """
        am (float16[b, e, 8] encoder_out, int32[b] encoder_lengths)
            => (float[b, e, 4] top_log_probs, int32[b, e, 4] top_tokens)
        <int64[1] four = {4}>
        {
            wide = Cast <to = 1> (encoder_out)
            log_probs = LogSoftmax (wide)
            top_log_probs, places = TopK (log_probs, four)
            top_tokens = Cast <to = 6> (places)
        }""",
    # Minus the sum of a hypothesis's tokens, minus the item's length; a token above 31 is out of bounds.
    "decoder": """
        decoder (float16[b, e, 8] encoder_out, int32[b] encoder_lengths, int32[b, n, l] hypotheses,
                 int32[b, n] hypothesis_lengths) => (float[b, n] scores)
        <int64[1] last = {-1}, int64[2] column = {-1, 1}>
        {
            table = Constant <value = float[32] {TABLE}> ()
            values = Gather (table, hypotheses)
            sums = ReduceSum <keepdims = 0> (values, last)
            lengths = Cast <to = 1> (encoder_lengths)
            upright = Reshape (lengths, column)
            together = Add (sums, upright)
            scores = Neg (together)
        }""",
    "lm": """
        lm (int32[b, n, l] hypotheses, int32[b, n] hypothesis_lengths) => (float[b, n] scores)
        <int64[1] last = {-1}>
        {
            table = Constant <value = float[32] {TABLE}> ()
            values = Gather (table, hypotheses)
            sums = ReduceSum <keepdims = 0> (values, last)
            scores = Neg (sums)
        }""",
    # The direction of the mean power of the samples 0 to 5 of every eight, in a window of 2 s every 0.75 s; silence has
    # the first direction.
    "diar": """
        diar (float[b, s] audio, int32[b] audio_lengths) => (float[b, w, 6] embedding)
        <int64[1] axes = {1}, float[8, 1, 8] first = {IDENTITY}, int64[1] from = {0}, int64[1] to = {6},
         float[6] silence = {1e-9, 0.0, 0.0, 0.0, 0.0, 0.0}>
        {
            upright = Unsqueeze (audio, axes)
            columns = Conv <strides = [8]> (upright, first)
            power = Mul (columns, columns)
            mean = AveragePool <kernel_shape = [4000], strides = [1500], pads = [0, 3999]> (power)
            chosen = Slice (mean, from, to, axes)
            upright_again = Transpose <perm = [0, 2, 1]> (chosen)
            direction = Add (upright_again, silence)
            embedding = LpNormalization <axis = -1, p = 2> (direction)
        }""",
}

# The body after one matrix product for every 10 ms of the request, so that the request decides how long it takes.
_SLOW_BODY = """
        body (float[b, s] audio, int32[b] audio_lengths) => (float16[b, e, 8] encoder_out, int32[b] encoder_lengths)
        <CONSTANTS, int64[2] size = {320, 320}>
        {FRAMES
            encoder_out = Identity (current)
            steps = ReduceMax <keepdims = 0> (audio)
            whole = Cast <to = 7> (steps)
            scalar = Constant <value = int64[0] {}> ()
            count = Reshape (whole, scalar)
            go = Constant <value = bool {1}> ()
            start = ConstantOfShape <value = float[1] {0.001}> (size)
            end = Loop <body = product (int64 index, bool on, float[320, 320] before_step)
                => (bool again, float[320, 320] after)
                {
                    again = Identity (on)
                    product = MatMul (before_step, before_step)
                    after = Tanh (product)
                }> (count, go, start)
            sum = ReduceSum <keepdims = 0> (end)
            nothing = Floor (sum)
            added = Cast <to = 6> (nothing)
            frames = Max (counted, one)
            encoder_lengths = Add (frames, added)
        }"""


def slow_body() -> bytes:
    """Return the ONNX file of a body that multiplies matrices as often as the largest sample of a request demands."""
    return _made(_SLOW_BODY)


def network(model: str, variant: str = "") -> bytes:
    """Return the ONNX file of a model such as `am_en_standard`; `variant` selects its graph for a step of a stream."""
    family = model.rpartition("_")[0]
    return _made(_SOURCES[f"{family}-{variant}" if variant else family])


def _made(source: str) -> bytes:
    table = ", ".join(str(float(value)) for value in range(32))
    identity = ", ".join(str(float(row == column)) for row in range(8) for column in range(8))
    written = source.replace("CONSTANTS", _CONSTANTS).replace("FRAMES", _FRAMES)
    made = onnx.parser.parse_model(_HEADER + written.replace("TABLE", table).replace("IDENTITY", identity))
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())
