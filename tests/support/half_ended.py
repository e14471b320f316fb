"""A program whose first thread ends while another goes on. It prints its pid."""

from __future__ import annotations

import ctypes
import os
import threading
import time

if __name__ == "__main__":
    threading.Thread(target=time.sleep, args=(600,)).start()
    print(os.getpid(), flush=True)
    ctypes.CDLL(None).pthread_exit(None)
