# One image for all services; each Deployment names its package: `docker run dbp jobs_svc`.
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY protos protos
COPY svc_common svc_common
COPY llm llm
COPY coordinator_svc coordinator_svc
COPY tool_svc tool_svc
COPY jobs_svc jobs_svc
COPY budget_svc budget_svc
COPY local_bedrock local_bedrock
COPY dbp_client dbp_client
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --upgrade-deps /opt/dbp \
    && /opt/dbp/bin/pip install .

FROM python:3.12-slim-bookworm
# git tells the tools the history of a workspace. Its version is Debian's, which mends it in place.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --home-dir /var/lib/dbp --create-home --shell /usr/sbin/nologin dbp
COPY --from=build /opt/dbp /opt/dbp
COPY doc/llm/prompts /opt/dbp/prompts
# PYTHONSAFEPATH: the working directory can be written to, so nothing may be imported from it.
ENV PATH=/opt/dbp/bin:$PATH \
    HOME=/var/lib/dbp \
    DBP_COORDINATOR_PROMPTS_DIR=/opt/dbp/prompts \
    DBP_TOOL_PROMPTS_DIR=/opt/dbp/prompts \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# The root can be read-only: caches go to .dbp in this folder, and only it and /tmp are written to.
WORKDIR /var/lib/dbp
ENTRYPOINT ["python", "-m"]
