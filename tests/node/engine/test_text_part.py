"""Names of tensors in checkpoints of models that do more than read and write."""

from node.engine.text_part import text_names


def test_a_model_that_is_text_alone_keeps_its_names() -> None:
    names = ["model.layers.0.mlp.up_proj.weight", "lm_head.weight", "score.weight"]

    assert text_names(names) == {name: name for name in names}


def test_parts_for_the_eye_are_left_out_and_the_text_part_gets_its_own_names() -> None:
    stored = [
        "language_model.model.layers.3.mlp.up_proj.weight",
        "language_model.lm_head.weight",
        "model.language_model.layers.4.mlp.up_proj.weight",
        "lm_head.bias",
        "vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight",
        "model.vision_tower.layers.3.mlp.fc1.weight",
        "multi_modal_projector.linear.weight",
    ]

    served = text_names(stored)

    assert served == {
        "model.layers.3.mlp.up_proj.weight": stored[0],
        "lm_head.weight": stored[1],
        "model.layers.4.mlp.up_proj.weight": stored[2],
        "lm_head.bias": stored[3],
    }
