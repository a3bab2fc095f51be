"""Write INT8 graphs with ONNX Runtime's static quantiser: quantise and dequantise nodes around chosen products."""

import logging
from pathlib import Path
from typing import Any

from build import reference
from contract.graph import weights_beside

QUANTISED = ("MatMul", "Gemm")
"""The operators that can be quantised."""


def toolchain() -> dict[str, str]:
    """Return name and exact version of the quantiser's library."""
    return {"onnxruntime": reference.library().__version__}


def quantise(
    graph: Path, target: Path, nodes: list[str], inputs: list[dict[str, Any]], *, symmetric: bool, seven_bits: bool
) -> None:
    """Write a graph in FP32 with some of its products in INT8 between quantise and dequantise nodes.

    Weights are quantised per channel, to seven bits of eight if `seven_bits`. Activations are quantised by their range
    on `inputs`: `symmetric` around zero in signed bytes, otherwise in unsigned bytes with a zero point. The
    weights are in a file of their own where those of `graph` are.
    """
    reference.library()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415

    # It logs warnings that recommend preprocessing steps which are not wanted here.
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            graph,
            target,
            _Calibration(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=seven_bits,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=weights_beside(graph) is not None,
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "MatMulConstBOnly": True},
        )
    finally:
        logging.disable(logging.NOTSET)


class _Calibration:
    """An iterator over inputs, with the interface of onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self, inputs: list[dict[str, Any]]) -> None:
        self._left = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next inputs; None after the last."""
        return next(self._left, None)
