"""Examples for the documentation; a test holds them to the schemas."""

from __future__ import annotations

from typing import Any, Final

JOB_ID: Final = "019abcde-f012-7345-8678-9abcdef01234"
KEY_ID: Final = "019abcde-f012-7345-8678-9abcdef05678"

COMPLETED_JOB: Final[dict[str, Any]] = {
    "id": JOB_ID,
    "job_id": JOB_ID,
    "batch_id": None,
    "status": "completed",
    "message": "The job is done.",
    "filename": "interview.mp3",
    "progress": 100.0,
    "current_step": None,
    "priority": "normal",
    "queue_paused": False,
    "engine": "openai-whisper",
    "task": "transcribe",
    "model_size": "base",
    "track": None,
    "start_seconds": 0.0,
    "end_seconds": None,
    "model_used": "openai-whisper/base/cpu/float32",
    "mode": "exact",
    "degraded": False,
    "warnings": [],
    "language": "en",
    "language_probability": 0.98,
    "duration": 62.5,
    "audio_seconds": 62.5,
    "audio_seconds_done": 62.5,
    "estimated": False,
    "word_count": 8,
    "confidence": 0.87,
    "attempt": 1,
    "max_attempts": 4,
    "next_attempt_at": None,
    "created_at": "2026-11-22T16:03:29.123456+00:00",
    "started_at": "2026-11-22T16:03:29.345678+00:00",
    "completed_at": "2026-11-22T16:03:41.567890+00:00",
    "cancel_requested_at": None,
    "error_type": None,
    "error_code": None,
    "error_message": None,
    "failure_reason": None,
    "metadata": {"project": "archive"},
    "callback_url": None,
    "upload_bytes": 1_000_000,
    "upload_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "links": {
        "self": f"/jobs/{JOB_ID}",
        "result": f"/jobs/{JOB_ID}/result",
        "audio": f"/jobs/{JOB_ID}/audio",
        "cancel": None,
    },
    "transcription": "Good morning, and thank you for coming here.",
    "queue_position": None,
    "eta_seconds": None,
}
