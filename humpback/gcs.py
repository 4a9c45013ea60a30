"""gs:// with patience: gcsfs, which stands behind etils.epath, with the settings that a run of days on many machines needs.

`storage` registers this class with fsspec by its name, so that it is imported only when a gs:// path is used. Arrays go past it:
Orbax hands them to TensorStore's own driver, which retries by itself and has its hangs cut by what `storage` puts into the environment.
"""

import asyncio
import random
import time
import urllib.parse
from typing import Any

import aiohttp
import gcsfs.core
from absl import logging

from humpback import internals

PATIENCE_SECONDS = 600.0  # of trouble in a row, for one request; TensorStore's own 32 attempts take about as long
# Cut what does not move. A body that does may take as long as it takes; no request here carries more than 50 MB.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 30.0
_TOLD_AFTER_SECONDS = 10.0
_DELETED_AT_ONCE = 32
internals.check("gcsfs")
_request_once = internals.get("gcsfs.core", "GCSFileSystem._request.__wrapped__")
_is_retriable = internals.get("gcsfs.retry", "is_retriable")
_run_in_chunks = internals.get("fsspec.asyn", "_run_coros_in_chunks")
_sync = internals.get("fsspec.asyn", "sync_wrapper")


class Gcs(gcsfs.core.GCSFileSystem):
    """gcsfs for several processes that write at once, through any trouble of at most PATIENCE_SECONDS.

    No listing is kept, because another process may change what it says. What was sent is checked by its MD5. A request is tried
    again after 408, 429, 5xx, a timeout and a broken connection.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        ours = {"use_listings_cache": False, "consistency": "md5", "session_kwargs": {"timeout": _TIMEOUT}, "requests_timeout": _TIMEOUT}
        super().__init__(*args, **{**ours, **kwargs})

    async def _request(self, method: str, path: str, *args: Any, **kwargs: Any) -> tuple:
        """One request, repeated while the trouble may pass; gcsfs' own six attempts end after half a minute."""
        started, wait, told = time.monotonic(), _FIRST_SECONDS, 0.0
        while True:
            try:
                return await _request_once(self, method, path, *args, **kwargs)
            except FileNotFoundError:
                if method.upper() == "DELETE" and wait > _FIRST_SECONDS:  # the answer to an earlier attempt was lost
                    return 204, {}, None, b""
                raise
            except Exception as error:
                seconds = time.monotonic() - started
                if not may_pass(error) or seconds > PATIENCE_SECONDS:
                    raise
                if seconds > max(_TOLD_AFTER_SECONDS, 2 * told):
                    told = seconds
                    logging.warning("gs://: %s for %.0f s, trying again: %s", type(error).__name__, seconds, error)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, _LONGEST_SECONDS)

    async def _mkdir(self, *_: Any, **__: Any) -> None:
        """Nothing: there are no folders, and to look for the bucket takes a right that a writer of objects need not have."""

    async def _makedirs(self, *_: Any, **__: Any) -> None:
        """As `_mkdir`."""

    mkdir = _sync(_mkdir)  # gcsfs has one of its own, which fails in a bucket that is empty

    async def _info(self, path: str, generation: str | None = None, **_: Any) -> dict[str, Any]:
        """As gcsfs, but it looks for an object first and for a folder only without one, and not for both each time."""
        path = self._strip_protocol(path).rstrip("/")
        bucket, key, _ = self.split_path(path)
        if key:
            try:
                return await self._get_object(path)
            except FileNotFoundError:
                pass
        return await self._get_directory_info(path, bucket, key, generation)

    async def _isdir(self, path: str) -> bool:
        """As gcsfs, but trouble is trouble and not the answer no."""
        try:
            return (await self._info(path))["type"] == "directory"
        except FileNotFoundError:
            return False

    async def _delete_files(self, files: list[str], batchsize: int) -> list:
        """One request each, as gcsfs does it elsewhere than at Google: these `_request` repeats, parts of a batch it would not."""
        return await _run_in_chunks([self._rm_file(file) for file in files], return_exceptions=True, batch_size=_DELETED_AT_ONCE)


    async def _read_generation(self, path: str) -> tuple[bytes | None, str]:
        """An object's bytes and its generation, of one moment; (None, "0") when there is none."""
        bucket, key, _ = self.split_path(path)
        try:
            headers, data = await self._call("GET", "b/{}/o/{}", bucket, key, alt="media")
        except FileNotFoundError:
            return None, "0"
        return data, headers["x-goog-generation"]

    async def _replace_generation(self, path: str, data: bytes, generation: str) -> str | None:
        """Writes a small object where that of this generation still is, and returns the new generation; None where it is not.

        None also where it was written and the answer was lost.
        """
        bucket, key, _ = self.split_path(path)
        place = f"{self._location}/upload/storage/v1/b/{urllib.parse.quote(bucket)}/o"
        kind = {"Content-Type": "application/octet-stream"}
        try:
            made = await self._call(
                "POST", place, uploadType="media", name=key, ifGenerationMatch=generation, headers=kind, data=data, json_out=True
            )
        except FileExistsError:
            return None
        return made["generation"]

    read_generation = _sync(_read_generation)
    replace_generation = _sync(_replace_generation)


def may_pass(error: Exception) -> bool:
    """Whether the same request may be answered later."""
    return _is_retriable(error) or isinstance(error, (TimeoutError, ConnectionError))
