"""Programs of research jobs: one that saves when it is told to end and goes on from there, and one that waits."""

TRAINING = """
import os, pathlib, signal, sys, time
saved = pathlib.Path(os.environ["MODELOPS_CHECKPOINT_FILE"])
where = f"on {os.environ.get('CUDA_VISIBLE_DEVICES')} in {pathlib.Path.cwd().name}, RATE {os.environ.get('RATE')}"
def save(*_):
    saved.write_text("step 1")
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
if saved.exists():
    print("resumed", where, flush=True)
    sys.exit(0)
print("training", where, flush=True)
time.sleep(60)
"""
# for a file `go` in its folder
WAITS = "import pathlib, sys, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\nsys.exit(5)"
