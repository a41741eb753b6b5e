"""All settings, and the only reader of the environment. Every variable is documented in docs/settings.md.

One code base, two shapes. Embedded (default): SQLite, a broker on the file system, channel layer in memory,
everything under ATRIUM_DATA_DIR. Production: DATABASE_URL and REDIS_URL name PostgreSQL and Redis.
"""

import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import dj_database_url
from django.utils.translation import gettext_lazy as _

from project.admin_theme import ADMIN_THEME
from project.env import env_bool, env_choice, env_float, env_int, env_json, env_list, env_path, env_str
from project.secret import read_or_create_secret

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = env_path("ATRIUM_DATA_DIR", BASE_DIR / "data")
DATA_DIR.mkdir(parents=True, exist_ok=True)

DEBUG = env_bool("ATRIUM_DEBUG", False)
SECRET_KEY = env_str("ATRIUM_SECRET_KEY") or read_or_create_secret(DATA_DIR / "secret_key")

# The address people and clients use, as seen from outside: behind a tunnel or proxy it differs from host and port.
PUBLIC_BASE_URL = env_str("PUBLIC_BASE_URL").rstrip("/")
_public = urlsplit(PUBLIC_BASE_URL)
ALLOWED_HOSTS = env_list("ATRIUM_ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]"))
if _public.hostname and _public.hostname not in ALLOWED_HOSTS:
    ALLOWED_HOSTS.append(_public.hostname)
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"] if _public.netloc else []
if _public.scheme == "https":
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    # Only a proxy that overwrites the header may stand in front: docs/operations.md.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# TLS ends at that proxy: redirecting to https and HSTS are its business, and would break health checks behind it.
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008"]

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "daphne",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "axes",
    "apps.core",
    "apps.accounts",
    "apps.registry",
    "apps.usage",
    "apps.files",
    "apps.quotas",
    "apps.inference",
    "apps.mcp",
    "apps.openai_api",
    "apps.batches",
    "apps.chat",
    "project.apps.ProjectConfig",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "apps.core.static_files.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "apps.core.csp.ContentSecurityPolicyMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- Storage -------------------------------------------------------------------------------------------------------

DATABASES = {"default": dj_database_url.parse(env_str("DATABASE_URL") or f"sqlite:///{DATA_DIR / 'atrium.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # IMMEDIATE: a transaction that will write waits for its turn at the start, instead of failing in the middle.
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA mmap_size=134217728;",
    }
REDIS_URL = env_str("REDIS_URL")

CHANNEL_LAYERS = {
    # Notices only, never tokens: the in-memory layer drops messages beyond its capacity.
    "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns when it is missing
STATICFILES_DIRS = [BASE_DIR / "static"]
FILES_STORAGE = env_str("ATRIUM_FILES_STORAGE", "django.core.files.storage.FileSystemStorage")
FILES_STORAGE_OPTIONS = env_json("ATRIUM_FILES_STORAGE_OPTIONS")
if FILES_STORAGE == "django.core.files.storage.FileSystemStorage":
    FILES_STORAGE_OPTIONS = {"location": str(env_path("ATRIUM_FILES_DIR", DATA_DIR / "files")), **FILES_STORAGE_OPTIONS}
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "files": {
        "BACKEND": FILES_STORAGE,
        "OPTIONS": FILES_STORAGE_OPTIONS,
    },  # of /v1/files; batches read and write it too
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True
MEDIA_ROOT = DATA_DIR / "media"
FILE_UPLOAD_TEMP_DIR = DATA_DIR / "uploads"  # where a file lies while it arrives
FILE_UPLOAD_TEMP_DIR.mkdir(exist_ok=True)

# --- Celery: the control plane only --------------------------------------------------------------------------------

NODE_NAME = env_str("ATRIUM_NODE_NAME", "local")
NODE_ADDRESS = env_str("ATRIUM_NODE_ADDRESS", "127.0.0.1")  # where web processes reach this host's replicas
NODE_BIND_HOST = env_str("ATRIUM_NODE_BIND_HOST", NODE_ADDRESS)  # what the replicas' sockets are bound to
# Where this host has other engines: vLLM's and TGI's programs, and the Python of SGLang's environment.
ENGINE_EXECUTABLES = {
    "vllm": env_str("ATRIUM_VLLM", "vllm"),
    "sglang": env_str("ATRIUM_SGLANG", "python-sglang"),
    "tgi": env_str("ATRIUM_TGI", "text-generation-launcher"),
}
WORKER_COMMAND = [sys.executable, "-m", "gpu_worker"]
# passive: idle threads sleep, for cores that web and workers share; active: they spin, for cores of their own.
WORKER_OMP_WAIT_POLICY = env_choice("ATRIUM_WORKER_OMP_WAIT_POLICY", "brief", ("brief", "passive", "active"))
WORKER_NUM_THREADS = env_int("ATRIUM_WORKER_NUM_THREADS", 0, minimum=0)  # 0: torch's own choice
# Compiled steps on CPUs: auto makes them in the background where that is possible, on insists, off never does.
WORKER_COMPILE = env_choice("ATRIUM_WORKER_COMPILE", "auto", ("auto", "on", "off"))
PRELOAD_MODELS = env_list("ATRIUM_PRELOAD_MODELS")  # kept loaded, as if their min_replicas were at least 1
RECONCILE_INTERVAL_S = env_float("ATRIUM_RECONCILE_INTERVAL_S", 2.0, minimum=0.1)

CELERY_BROKER_URL = env_str("ATRIUM_BROKER_URL") or REDIS_URL
if not CELERY_BROKER_URL:
    CELERY_BROKER_URL = "filesystem://localhost"
    BROKER_DIR = DATA_DIR / "broker"
    for _name in ("queue", "processed", "control"):
        (BROKER_DIR / _name).mkdir(parents=True, exist_ok=True)
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(BROKER_DIR / "queue"),
        "data_folder_out": str(BROKER_DIR / "queue"),
        "processed_folder": str(BROKER_DIR / "processed"),
        "control_folder": str(BROKER_DIR / "control"),
        "polling_interval": 0.1,
    }
    CELERY_BROKER_TRANSPORT = "project.filesystem_broker:Transport"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_DEFAULT_QUEUE = "control"  # any host's worker; what belongs to one host goes to its queue node.<name>
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"  # in memory: every entry is an interval, there is nothing to remember
CELERY_BEAT_MAX_LOOP_INTERVAL = 5
CELERY_BEAT_SCHEDULE = {
    # Each message expires before the next but one is sent: a worker that was away finds no backlog.
    "tick": {
        "task": "registry.tick",
        "schedule": RECONCILE_INTERVAL_S,
        "options": {"expires": 2 * RECONCILE_INTERVAL_S},
    },
    "upstreams": {"task": "registry.check_upstreams", "schedule": 30.0, "options": {"expires": 60.0}},
    "forget": {"task": "openai_api.sweep_responses", "schedule": 600.0, "options": {"expires": 600.0}},
    "sweep_files": {"task": "files.sweep", "schedule": 600.0, "options": {"expires": 600.0}},
    "batches": {"task": "batches.start_due", "schedule": 5.0, "options": {"queue": "batches", "expires": 10.0}},
    "sweep": {"task": "usage.sweep", "schedule": 15.0, "options": {"expires": 15.0}},
    "reap": {"task": "quotas.reap", "schedule": 15.0, "options": {"expires": 15.0}},
}

# --- People --------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.ScryptPasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
# Guessing passwords: somebody at one address who fails so often waits before trying the same name again.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_HTTP_RESPONSE_CODE = 429
AXES_LOCKOUT_TEMPLATE = "portal/locked_out.html"
AXES_DISABLE_ACCESS_LOG = True  # what is kept are failures alone
AXES_ENABLE_ADMIN = False  # `manage.py axes_reset` is the tool
AXES_VERBOSE = False
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

# First credentials, for containers and automation: read by `manage.py bootstrap` alone.
BOOTSTRAP_API_KEY = env_str("ATRIUM_API_KEY")
BOOTSTRAP_ADMIN_USERNAME = env_str("ATRIUM_ADMIN_USERNAME", "admin")
BOOTSTRAP_ADMIN_PASSWORD = env_str("ATRIUM_ADMIN_PASSWORD")

# --- API -----------------------------------------------------------------------------------------------------------

CORS_ALLOWED_ORIGINS = env_list("ATRIUM_CORS_ALLOWED_ORIGINS")  # exact origins, or * for all; empty: CORS is off
MAX_BODY_BYTES = env_int("ATRIUM_MAX_BODY_BYTES", 32 * 1024 * 1024, minimum=1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# Images in messages: how many, how large, and whether and where they are fetched from (data: URLs always work).
MAX_IMAGES = env_int("ATRIUM_MAX_IMAGES", 16, minimum=1)
MAX_IMAGE_BYTES = env_int("ATRIUM_MAX_IMAGE_BYTES", 20 * 1024 * 1024, minimum=1024)
FETCH_IMAGES = env_bool("ATRIUM_FETCH_IMAGES", True)
FETCH_TIMEOUT_S = env_float("ATRIUM_FETCH_TIMEOUT_S", 10.0, minimum=0.1)
FETCH_HOSTS = env_list("ATRIUM_FETCH_HOSTS")  # only these; empty: any with a public address
FETCH_PRIVATE_HOSTS = env_list("ATRIUM_FETCH_PRIVATE_HOSTS")  # these although their addresses are private
# Upstreams of models: hosts that may have private addresses, and how long one may say nothing in an answer.
UPSTREAM_PRIVATE_HOSTS = env_list("ATRIUM_UPSTREAM_PRIVATE_HOSTS")
UPSTREAM_TIMEOUT_S = env_float("ATRIUM_UPSTREAM_TIMEOUT_S", 300.0, minimum=1)
# Servers of tools (MCP): whether requests may bring their own, and which of these may have private addresses.
MCP_URLS = env_bool("ATRIUM_MCP_URLS", True)
MCP_PRIVATE_HOSTS = env_list("ATRIUM_MCP_PRIVATE_HOSTS")
MCP_CALL_TIMEOUT_S = env_float("ATRIUM_MCP_CALL_TIMEOUT_S", 60.0, minimum=0.1)  # of one call, connecting included
MCP_LOOP_TIMEOUT_S = env_float("ATRIUM_MCP_LOOP_TIMEOUT_S", 600.0, minimum=1)  # then the model has to come to an end
MCP_MAX_ROUNDS = env_int("ATRIUM_MCP_MAX_ROUNDS", 16, minimum=2)
MCP_MAX_RESULT_CHARS = env_int("ATRIUM_MCP_MAX_RESULT_CHARS", 50_000, minimum=100)  # of text, for the model
MCP_MAX_BYTES = env_int("ATRIUM_MCP_MAX_BYTES", 32 * 1024 * 1024, minimum=1024)  # from one server, in one answer
MAX_AUDIO_BYTES = env_int("ATRIUM_MAX_AUDIO_BYTES", 25 * 1024 * 1024, minimum=1024)  # of an uploaded recording
# Files of /v1/files: how large one may be, and all of a team together (0: no limit); how long a batch's are kept.
MAX_FILE_BYTES = env_int("ATRIUM_MAX_FILE_BYTES", 200 * 1024 * 1024, minimum=1024)
MAX_TEAM_FILES_BYTES = env_int("ATRIUM_MAX_TEAM_FILES_BYTES", 20 * 1024**3, minimum=0)
FILES_RETENTION_DAYS = env_float("ATRIUM_FILES_RETENTION_DAYS", 30.0, minimum=0)  # 0: until they are deleted
MAX_BATCH_LINES = env_int("ATRIUM_MAX_BATCH_LINES", 50_000, minimum=1)
MAX_OPEN_BATCHES = env_int("ATRIUM_MAX_OPEN_BATCHES", 100, minimum=1)  # of a team, that have not ended
BATCH_CONCURRENCY = env_int("ATRIUM_BATCH_CONCURRENCY", 32, minimum=1)  # lines at once, of all batches in one process
RESPONSES_RETENTION_DAYS = env_float("ATRIUM_RESPONSES_RETENTION_DAYS", 30.0, minimum=0)  # 0: until they are deleted
# Streams that can be read again: how long events are kept after the last, and how long a chat goes on with no reader.
EVENTS_RETENTION_S = env_float("ATRIUM_EVENTS_RETENTION_S", 600.0, minimum=0)
RESUME_WITHIN_S = env_float("ATRIUM_RESUME_WITHIN_S", 60.0, minimum=1)
RESPONSES_SOCKET_S = env_float("ATRIUM_RESPONSES_SOCKET_S", 3600.0, minimum=1)  # one WebSocket of /v1/responses
AUTH_CACHE_TTL_S = env_float("ATRIUM_AUTH_CACHE_TTL_S", 10.0, minimum=0)
# A request whose model is not loaded waits this long for it before it fails with 503.
LOAD_TIMEOUT_S = env_float("ATRIUM_LOAD_TIMEOUT_S", 600.0, minimum=1)
SSE_KEEPALIVE_S = env_float("ATRIUM_SSE_KEEPALIVE_S", 10.0, minimum=0.1)
# `serve --force-model NAME`: every request is answered by this model, another name is a 400.
FORCE_MODEL = env_str("ATRIUM_FORCE_MODEL")

# Requests with limits, while Redis or the database cannot say what is in use: refuse them, or let them in.
QUOTAS_WHEN_AWAY = env_choice("ATRIUM_QUOTAS_WHEN_AWAY", "refuse", ("refuse", "allow"))

# Prometheus scrapes /metrics without a key; else it takes an administrator's key or session.
METRICS_PUBLIC = env_bool("ATRIUM_METRICS_PUBLIC", False)
# Several web processes: a folder where prometheus_client keeps their counters, emptied before each start.
METRICS_FOLDER = env_str("PROMETHEUS_MULTIPROC_DIR")

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["apps.accounts.auth.CallerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apps.core.http.exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Atrium",
    "DESCRIPTION": "The OpenAI API over your team's own models.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "OAS_VERSION": "3.1.0",  # whose schemas are JSON Schema, as msgspec writes it
    "POSTPROCESSING_HOOKS": [
        "apps.openai_api.openapi.add_generating_endpoints",
        "apps.anthropic_api.openapi.add_messages",
        "apps.batches.openapi.add_batch_body",
    ],
}

# --- Mail ----------------------------------------------------------------------------------------------------------

EMAIL_HOST = env_str("ATRIUM_EMAIL_HOST")  # empty: no mail is sent
EMAIL_PORT = env_int("ATRIUM_EMAIL_PORT", 587, minimum=1)
EMAIL_USE_TLS = env_bool("ATRIUM_EMAIL_TLS", True)  # STARTTLS
EMAIL_HOST_USER = env_str("ATRIUM_EMAIL_USER")
EMAIL_HOST_PASSWORD = env_str("ATRIUM_EMAIL_PASSWORD")
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env_str("ATRIUM_EMAIL_FROM", "atrium@localhost")

# --- Language and time ---------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("ko", _("Korean"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
TIME_ZONE = env_str("ATRIUM_TIME_ZONE", "UTC")
USE_TZ = True

# --- Logging -------------------------------------------------------------------------------------------------------

LOG_LEVEL = env_choice("ATRIUM_LOG_LEVEL", "info", ("debug", "info", "warning", "error")).upper()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    # Celery tells of every reconciliation, several lines every two seconds; axes four lines for every login.
    # What servers of tools do wrong is in the results; their SDK would write a traceback for each.
    "loggers": {
        name: {"level": "WARNING" if LOG_LEVEL == "INFO" else LOG_LEVEL}
        for name in ("celery.app.trace", "celery.beat", "celery.worker.strategy", "axes", "httpx2")
    }
    | {name: {"level": "DEBUG" if LOG_LEVEL == "DEBUG" else "CRITICAL"} for name in ("mcp", "client")},
}

UNFOLD = ADMIN_THEME
