"""SAM and SAM 2 as segmenters: tiny random models, against transformers' own pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import street
from tiny_annotators import save_sam, save_sam2
from v2ir.annotation import AnnotationStore, annotate, make_segmenter
from v2ir.annotation.masks import suppress, union
from v2ir.annotation.segment_anything import _Frame, _stability
from v2ir.data import index, load_scenes
from v2ir.errors import InputError, UnknownNameError
from v2ir.images import read_map

IMAGES = [street(seed, 96 + 16 * seed, 80)[0] for seed in range(3)]
LOOSE = "points=6,trust=-99,stability=0.6"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights")
    return {"sam": save_sam(weights / "sam"), "sam2": save_sam2(weights / "sam2")}


@pytest.mark.parametrize("kind", ["sam", "sam2"])
@pytest.mark.parametrize("rendering", ["union", "boundaries", "regions"])
def test_maps_do_not_depend_on_the_batch(folders, kind, rendering):
    segmenter = make_segmenter(f"sam:{folders[kind]},{LOOSE},rendering={rendering}")
    together = segmenter.segment(IMAGES)
    for image, found in zip(IMAGES, together, strict=True):
        assert found.shape == (image.shape if rendering == "regions" else image.shape[:2])
        assert np.array_equal(found, segmenter.segment([image])[0])
    assert any(found.any() for found in together)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_the_union_is_that_of_the_masks_whatever_goes_together(folders, kind):
    segmenter = make_segmenter(f"sam:{folders[kind]},{LOOSE}")
    one = make_segmenter(f"sam:{folders[kind]},{LOOSE},points_at_once=1")
    masks = segmenter.masks(IMAGES[0])
    assert masks
    assert np.array_equal(segmenter.segment(IMAGES[:1])[0], union(masks, IMAGES[0]))
    assert np.array_equal(one.segment(IMAGES[:1])[0], union(masks, IMAGES[0]))
    assert segmenter.version == one.version


def test_masks_are_those_of_the_pipeline_of_transformers(folders):
    from transformers import SamImageProcessorPil, SamModel
    from transformers.models.sam import image_processing_pil_sam as theirs
    from transformers.pipelines import MaskGenerationPipeline

    class WithOwnSuppression(SamImageProcessorPil):
        """Theirs needs torchvision for this one step."""

        def post_process_for_mask_generation(self, masks, scores, boxes, limit):
            kept = suppress(boxes.numpy(), scores.numpy(), limit)
            return [theirs._rle_to_mask(masks[i]) for i in kept], scores[kept], None, None

    image = IMAGES[1]
    processor = WithOwnSuppression.from_pretrained(folders["sam"])
    pipeline = MaskGenerationPipeline(
        model=SamModel.from_pretrained(folders["sam"]).eval(), image_processor=processor
    )
    from PIL import Image

    found = pipeline(
        Image.fromarray(image),
        points_per_batch=64,
        points_per_crop=6,
        pred_iou_thresh=-99,
        stability_score_thresh=0.6,
        crops_nms_thresh=0.7,
    )
    mine = make_segmenter(f"sam:{folders['sam']},{LOOSE}").masks(image)
    assert len(mine) == len(found["masks"]) > 0
    for one, other in zip(mine, found["masks"], strict=True):
        assert np.mean(one != np.asarray(other)) < 0.005


@pytest.mark.parametrize("size", [(80, 96), (96, 80), (33, 100)])
def test_images_lie_in_the_square_as_sams_own_processor_lays_them(size):
    from transformers import SamImageProcessorPil

    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    image = street(3, size[1], size[0])[0]
    expected = processor(images=image, return_tensors="pt")
    mean, std = processor.image_mean, processor.image_std
    frame = _Frame(64, stretch=False, mean=mean, std=std)
    assert list(frame.inner(size)) == expected["reshaped_input_sizes"][0].tolist()
    assert torch.allclose(frame.tensor(image), expected["pixel_values"][0], atol=1e-5)
    stretched = _Frame(64, stretch=True, mean=mean, std=std)
    assert stretched.inner(size) == (64, 64)


def test_points_stand_in_the_middle_of_even_cells():
    frame = _Frame(100, stretch=False, mean=(0, 0, 0), std=(1, 1, 1))
    points = frame.points((40, 80), 2)  # 50 x 100 in the square
    assert points.tolist() == [[25, 12.5], [75, 12.5], [25, 37.5], [75, 37.5]]


def test_stability_is_the_overlap_of_two_cuts():
    steep = torch.full((8, 8), -9.0)
    steep[:4] = 9.0
    slow = torch.linspace(-2, 2, 64).reshape(8, 8)
    found = _stability(torch.stack([steep, slow, torch.full((8, 8), -9.0)]))
    assert found[0] == 1
    assert found[1] == pytest.approx(16 / 48)
    assert found[2] == 0


class Painter:
    """Stands for a trained network: answers each point with the object that lies there."""

    def __init__(self, real, objects):
        self.real, self.objects, self.config = real, objects, real.config

    def get_image_embeddings(self, pixels):
        return self.real.get_image_embeddings(pixels)

    def __call__(self, *, image_embeddings, input_points, input_labels, multimask_output):
        points = input_points[0, :, 0] / 64 * 16
        masks = torch.full((1, len(points), 3, 16, 16), -80.0)
        scores = torch.zeros((1, len(points), 3))
        for row, (x, y) in enumerate(points.tolist()):
            for top, bottom, left, right in self.objects:
                if top <= y < bottom and left <= x < right:
                    masks[0, row, 0, top:bottom, left:right] = 80.0
                    scores[0, row, 0] = 0.95
        return type("Found", (), {"pred_masks": masks, "iou_scores": scores})()


def test_objects_become_one_mask_each_and_the_rest_stays_black(folders):
    segmenter = make_segmenter(f"sam:{folders['sam']},points=16")
    segmenter._parts = Painter(segmenter.parts, [(2, 6, 2, 6), (8, 14, 4, 12)])
    image = np.zeros((128, 128, 3), np.uint8)
    masks = segmenter.masks(image)
    assert len(masks) == 2, "points of one object gave several masks"
    found = segmenter.segment([image])[0]
    expected = np.zeros((128, 128), np.uint8)
    expected[16:48, 16:48] = expected[64:112, 32:96] = 255
    assert np.mean(found != expected) < 0.02
    assert found[30, 30] == found[80, 60] == 255
    assert found[56, 64] == found[120, 120] == 0


def test_large_images_get_maps_of_their_size(folders):
    segmenter = make_segmenter(f"sam:{folders['sam']},points=3,trust=-99,stability=0")
    image = np.repeat(np.repeat(IMAGES[0], 12, axis=0), 12, axis=1)
    assert segmenter.segment([image])[0].shape == (960, 1152)
    assert max(segmenter.masks(image)[0].shape) == 1024


def test_wrong_options():
    with pytest.raises(UnknownNameError, match="boundaries"):
        make_segmenter("sam-base,rendering=edges")
    with pytest.raises(InputError, match="one point"):
        make_segmenter("sam-base,points=0")


@pytest.mark.parametrize("rendering", ["union", "regions"])
def test_the_store_keeps_sams_maps(folders, make_pairs, rendering):
    root = make_pairs(2)
    index(root)
    spec = f"sam:{folders['sam']},{LOOSE},rendering={rendering}"
    assert annotate(root, captioner=None, segmenter=spec).segmentations.made == 2
    store = AnnotationStore(root, with_faulty=True)
    expected = make_segmenter(spec)
    for scene in load_scenes(root):
        found = read_map(store.segmentation_path(scene))
        wanted = expected.segment([street(int(scene.name[-2:]))[0]])[0]
        if wanted.ndim == 3 and (wanted == wanted[..., :1]).all():
            wanted = wanted[..., 0]
        assert np.array_equal(found, wanted)
    assert annotate(root, captioner=None, segmenter=spec).segmentations.kept == 2
