"""The same engine over replicas on a Ray cluster.

Ray reads its environment when it is imported, so what it has to know is told here, before that.
"""

from qwen_vl.config import start_ray_when_told_only

start_ray_when_told_only()
