"""One embedding of several images, and the chat message form of Qwen2-VL.

python examples/embed_images.py          # the bundled model; or --model zhibinlan/UME-R1-2B
"""

import argparse

from PIL import Image
from skimage import data

from umer1 import Embedder

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
model = Embedder.load(parser.parse_args().model)

left, right, _ = data.stereo_motorcycle()
pictures = [Image.fromarray(left), Image.fromarray(right)]

as_dict = {"images": pictures, "text": "Two views of one scene."}
as_messages = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": pictures[0]},
            {"type": "image", "image": pictures[1]},
            {"type": "text", "text": "Two views of one scene."},
        ],
    }
]
out = model.encode([as_dict, as_messages], max_new_tokens=64, progress=False)
print("disc:", out.disc.shape, " both forms agree to", abs(out.disc[0] - out.disc[1]).max())
print("summary:", out.summary[0])
