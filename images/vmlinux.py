"""vmlinux.py BZIMAGE OUT : take the uncompressed kernel (ELF) out of a bzImage.

The payload's place is in the boot header (Linux x86 boot protocol 2.08: setup_sects at 0x1f1,
payload_offset and payload_length at 0x248); its last four bytes are the uncompressed size.
"""

import struct
import subprocess
import sys

UNPACKERS = {
    b"\x02\x21": ["lz4", "-dc", "-"],
    b"\xfd7": ["xz", "-dc"],
    b"\x1f\x8b": ["gzip", "-dc"],
    b"\x28\xb5": ["zstd", "-dc"],
}

image = open(sys.argv[1], "rb").read()
offset, length = struct.unpack_from("<II", image, 0x248)
start = (image[0x1F1] + 1) * 512 + offset
payload = image[start : start + length - 4]
unpacker = UNPACKERS.get(payload[:2])
if unpacker is None:
    sys.exit(f"vmlinux.py: {sys.argv[1]}: unknown compression {payload[:4].hex()}")
# xz and zstd may complain about what follows the stream; the ELF magic decides.
result = subprocess.run(unpacker, input=payload, capture_output=True, check=False)
if result.stdout[:4] != b"\x7fELF":
    sys.exit(f"vmlinux.py: {unpacker[0]} gave no ELF: {result.stderr[-200:]!r}")
with open(sys.argv[2], "wb") as out:
    out.write(result.stdout)
