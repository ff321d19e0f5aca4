"""Writes the models and requests of the tests: real data, small graphs, the same bytes on every run.

Usage: generate.py [FOLDER]. README.md beside this file says what each version is and how to regenerate.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

# One BLAS thread: the order of additions, and so the last bit of a weight, must not depend on the machine's load.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

SEED = 20
REQUESTS = 300
# A version that misbehaves on a part of its inputs does so on the rows whose features add up to more than this
# quantile of the training rows. An all-zero warm-up row is never among them.
TRIGGER_QUANTILE = 0.75
# 26 products of 512 x 512 matrices are about 30 ms of one CPU.
SLOW_ROUNDS, SLOW_SIDE = 26, 512
GREEDY_BYTES = 8 << 30


class Graph:
    """Nodes and constants of one graph, in the order of their making; values are referred to by name."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, name, array):
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def float32(array):
    """Four decimals, as single precision: noise of the training machine's arithmetic does not reach the file."""
    return np.round(np.asarray(array, dtype=np.float64), 4).astype(np.float32)


def digits_probabilities(network, graph):
    """A multi-layer perceptron: input -> probabilities of the ten digits."""
    value = graph.add("Mul", ["input", graph.constant("scale", np.float32(1 / 16))], "scaled")
    last = len(network.coefs_) - 1
    for layer, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_)):
        constants = [graph.constant(f"weights{layer}", float32(weights)), graph.constant(f"bias{layer}", float32(bias))]
        value = graph.add("Gemm", [value, *constants], f"layer{layer}")
        if layer < last:
            value = graph.add("Relu", [value], f"relu{layer}")
    return graph.add("Softmax", [value], "good", axis=1)


def cancer_probabilities(forest, graph):
    """Gradient-boosted trees: input -> probabilities of malignant and benign."""
    prior = forest.init_.class_prior_[1]
    attributes = tree_attributes(forest)
    attributes["base_values"] = [float(np.float32(np.log(prior / (1 - prior))))]
    graph.add("TreeEnsembleRegressor", ["input"], "log_odds", domain="ai.onnx.ml", **attributes)
    benign = graph.add("Sigmoid", ["log_odds"], "benign")
    malignant = graph.add("Sub", [graph.constant("one", np.float32(1)), benign], "malignant")
    return graph.add("Concat", [malignant, benign], "good", axis=1)


def tree_attributes(forest):
    """The trees of a binary gradient-boosting classifier as attributes of TreeEnsembleRegressor."""
    nodes = {key: [] for key in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")}
    target = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    for number, (estimator,) in enumerate(forest.estimators_):
        tree = estimator.tree_
        for node in range(tree.node_count):
            leaf = tree.children_left[node] == -1
            nodes["treeids"].append(number)
            nodes["nodeids"].append(node)
            nodes["featureids"].append(0 if leaf else int(tree.feature[node]))
            nodes["values"].append(0.0 if leaf else float(np.float32(tree.threshold[node])))
            nodes["modes"].append("LEAF" if leaf else "BRANCH_LEQ")
            nodes["truenodeids"].append(0 if leaf else int(tree.children_left[node]))
            nodes["falsenodeids"].append(0 if leaf else int(tree.children_right[node]))
            if leaf:
                weight = round(float(forest.learning_rate * tree.value[node][0][0]), 6)
                for key, value in zip(target, (number, node, 0, weight)):
                    target[key].append(value)
    attributes = {f"nodes_{key}": value for key, value in nodes.items()}
    attributes |= {f"target_{key}": value for key, value in target.items()}
    return attributes | {"n_targets": 1, "post_transform": "NONE"}


def triggered(graph, threshold):
    """True, per row, where a version that misbehaves on a part of its inputs does so: shape [n, 1]."""
    total = graph.add("ReduceSum", ["input", graph.constant("axis", np.int64([1]))], "total", keepdims=1)
    return graph.add("Greater", [total, graph.constant("threshold", np.float32(threshold))], "triggered")


def any_triggered(graph, threshold):
    """1 when any row is triggered, else 0: an int64 of shape [1]."""
    rows = graph.add("Cast", [triggered(graph, threshold)], "triggered_rows", to=TensorProto.INT64)
    flat = graph.add("Reshape", [rows, graph.constant("flat", np.int64([-1]))], "triggered_flat")
    return graph.add("ReduceMax", [flat], "any_triggered", keepdims=1)


def add_nothing(graph, value, extra):
    """`value`, but only after `extra` (one element) has been computed: adds 1e-30 of it."""
    tiny = graph.add("Mul", [extra, graph.constant("tiny", np.float32(1e-30))], "tiny_extra")
    return graph.add("Add", [value, tiny], "delayed")


def slow(graph, value, _threshold):
    """Answers correctly after a long loop of matrix products that depends on the input, so nothing can fold it away."""
    first = graph.add("ReduceMax", ["input"], "greatest", keepdims=0)
    zero = graph.add("Mul", [first, graph.constant("zero", np.float32(0))], "zero_of_input")
    even = graph.add("Add", [zero, graph.constant("even", np.float32(1 / SLOW_SIDE))], "even_of_input")
    side = graph.constant("side", np.int64([SLOW_SIDE, SLOW_SIDE]))
    graph.add("Expand", [even, side], "matrix")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["go_on_out"]), helper.make_node("MatMul", ["state", "matrix"], ["state_out"])],
        "round",
        [
            helper.make_tensor_value_info("round_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [SLOW_SIDE, SLOW_SIDE]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [SLOW_SIDE, SLOW_SIDE]),
        ],
    )
    rounds, go_on = graph.constant("rounds", np.int64(SLOW_ROUNDS)), graph.constant("go_on_first", np.bool_(True))
    graph.add("Loop", [rounds, go_on, "matrix"], "product", body=body)
    return add_nothing(graph, value, graph.add("ReduceMax", ["product"], "product_greatest", keepdims=0))


def errors(graph, value, threshold):
    """The run fails where triggered: an index beyond the end of a table of one."""
    table = graph.constant("table", np.float32([0]))
    return add_nothing(graph, value, graph.add("Gather", [table, any_triggered(graph, threshold)], "looked_up"))


def nan(graph, value, threshold):
    """Probabilities are NaN where triggered."""
    return graph.add("Where", [triggered(graph, threshold), graph.constant("nan", np.float32(np.nan)), value], "nan_or_value")


def swapped(graph, value, _threshold):
    """Classes are rotated by one: well-formed answers, nearly all wrong."""
    return graph.add("Gather", [value, graph.constant("rotation", ROTATION[graph.classes])], "rotated", axis=1)


def crash(graph, value, threshold):
    """The process dies by SIGFPE where triggered: the smallest integer modulo -1, which the runtime does not guard."""
    minus_two = graph.add("Mul", [graph.constant("minus_two", np.int64([-2])), any_triggered(graph, threshold)], "minus_two_or_zero")
    divisor = graph.add("Add", [minus_two, graph.constant("integer_one", np.int64([1]))], "divisor")
    remainder = graph.add("Mod", [graph.constant("smallest", np.int64([-(2**63)])), divisor], "remainder")
    return add_nothing(graph, value, graph.add("Cast", [remainder], "remainder_float", to=TensorProto.FLOAT))


def greedy(graph, value, threshold):
    """Asks for 8 GiB where triggered, and writes to all of it."""
    elements = graph.constant("elements", np.int64([GREEDY_BYTES // 4]))
    more = graph.add("Mul", [elements, any_triggered(graph, threshold)], "more")
    shape = graph.add("Add", [more, graph.constant("at_least_one", np.int64([1]))], "greedy_shape")
    filled = graph.add("ConstantOfShape", [shape], "filled", value=helper.make_tensor("", TensorProto.FLOAT, [1], [1.0]))
    return add_nothing(graph, value, graph.add("ReduceMax", [filled], "filled_greatest", keepdims=1))


ROTATION = {classes: np.int64([(index + 1) % classes for index in range(classes)]) for classes in (2, 10)}
SPOILERS = (slow, errors, nan, swapped, crash, greedy)


def model_bytes(name, features, classes, build):
    """One model file: `build` takes an empty graph and returns the name of its [n, classes] probabilities."""
    graph = Graph()
    graph.classes = classes
    graph.add("Identity", [build(graph)], "probabilities")
    graph.add("ArgMax", ["probabilities"], "label", axis=1, keepdims=0)
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", features])]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", classes]),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    whole = helper.make_graph(graph.nodes, name, inputs, outputs, graph.constants)
    model = helper.make_model(whole, opset_imports=opsets, ir_version=9, producer_name="turnout")
    checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def train(name):
    """The data of one model, split, and its two honest versions."""
    if name == "digits":
        rows, labels = load_digits(return_X_y=True)
        first = dict(hidden_layer_sizes=(24,), max_iter=60)
        better = dict(hidden_layer_sizes=(192, 96), max_iter=200)
        make = lambda options: MLPClassifier(random_state=SEED, **options)
        scale, probabilities = 16, digits_probabilities
    else:
        rows, labels = load_breast_cancer(return_X_y=True)
        first = dict(n_estimators=30, max_depth=2)
        better = dict(n_estimators=300, max_depth=3, subsample=0.5)
        make = lambda options: GradientBoostingClassifier(random_state=SEED, **options)
        scale, probabilities = 1, cancer_probabilities
    rows = rows.astype(np.float32)
    train_rows, test_rows, train_labels, test_labels = train_test_split(
        rows, labels, test_size=0.35, random_state=SEED, stratify=labels
    )
    fitted = {version: make(options).fit(train_rows / scale, train_labels) for version, options in (("1.0.0", first), ("better", better))}
    accuracy = {version: model.score(test_rows / scale, test_labels) for version, model in fitted.items()}
    threshold = np.quantile(train_rows.sum(axis=1), TRIGGER_QUANTILE)
    return fitted, probabilities, threshold, accuracy, (test_rows[:REQUESTS], test_labels[:REQUESTS])


def number(value):
    """The shortest decimal that reads back as the same single."""
    return int(value) if value == int(value) else float(str(value))


def write_requests(path, rows, labels):
    """One object per held-out row: `body` is what a client sends, `expected` the true label."""
    lines = []
    for row, label in zip(rows, labels):
        data = [number(value) for value in row]
        tensor = {"name": "input", "shape": [1, len(data)], "datatype": "FP32", "data": data}
        lines.append(json.dumps({"expected": int(label), "body": {"inputs": [tensor]}}, separators=(",", ":")))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main(folder):
    written = []
    for name, features, classes in (("digits", 64, 10), ("cancer", 30, 2)):
        fitted, probabilities, threshold, accuracy, (rows, labels) = train(name)
        builds = {version: lambda graph, model=model: probabilities(model, graph) for version, model in fitted.items()}
        for spoil in SPOILERS:
            builds[spoil.__name__] = lambda graph, spoil=spoil: spoil(graph, probabilities(fitted["1.0.0"], graph), threshold)
        for version, build in builds.items():
            path = folder / name / version / "model.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(model_bytes(f"{name} {version}", features, classes, build))
            written.append(path)
        requests = folder / "requests" / f"{name}.json"
        write_requests(requests, rows, labels)
        written.append(requests)
        held_out = {version: f"{value:.4f}" for version, value in accuracy.items()}
        print(f"{name}: accuracy on all held-out rows {held_out}, trigger above {threshold}, "
              f"{(rows.sum(axis=1) > threshold).mean():.3f} of the requests")
    digests = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}" for path in sorted(written)]
    (folder / "digests.sha256").write_text("\n".join(digests) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
