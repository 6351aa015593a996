"""The whole path: log, labels, foundation models, examples, vertical models, bundles, registry, smoke test, report.

Each step does what is due below the root: a first replay, a daily run and the run after a crash are one pipeline.

A run without methods to `compare` has no such step.
"""

from functools import partial
from typing import Any

from kfp import dsl, kubernetes

from exfm.environment import COMPUTE_ENVIRONMENT, IMAGE, PIPELINE_RUN
from exfm_components.platform import CREDENTIALS, ENDPOINTS, FOLLOWER, PlatformConfig, Step
from exfm_components.processes import trains_apart
from exfm_components.run_config import RunConfig
from exfm_components.stages import data_processing, deployment, evaluation, training

RUN_ID = "metadata.labels['pipeline/runid']"
"""Where a step's pod says which run of Kubeflow it is of."""

CHECK_TIMEOUT_S = 300
"""Timeout of the step `check`, which takes seconds; the rest is for its image's download."""


def pipeline_name(config: RunConfig) -> str:
    """Return the name of a run's pipeline."""
    return f"exfm-{config.name}"


def teach_distil_serve(config: RunConfig, *, image: str) -> Any:
    """Return the pipeline of a run, whose settings are its parameters' defaults; every step runs in `image`."""
    settings, its_root, its_deploy = config.to_dict(), config.root, config.deploy
    pods, has_published = config.platform.backfill_pods, any(fm.published for fm in config.foundation_models)
    only_follows = all(trains_apart(fm) for fm in config.foundation_models)
    prepare = partial(_prepare, platform=config.platform, image=image)

    @dsl.pipeline(
        name=pipeline_name(config),
        description="Teach once, distil many, serve sharded: see docs/pipelines.md of exfm.",
    )
    def pipeline(run: dict = settings, root: str = its_root, deploy: bool = its_deploy, until: str = "") -> None:
        """Do whatever is due, in order, stage by stage.

        `run` is the run's file with its schema; `root`, s3://bucket/prefix, and `deploy` override its own.
        With `deploy`, versions that pass against their champions are rolled out
        in the cluster that the pipeline runs in. `until`, a date, says up to where the log is complete; empty: what
        its files say. Nothing is cached: the tables below the root say what is done.
        """
        checked = data_processing.check(run=run, root=root, deploy=deploy)
        log = data_processing.ingest(run=run, root=root, until=until).after(checked)
        labelled = data_processing.make_labels(run=run, root=root).after(log)
        if pods > 1:
            with dsl.ParallelFor(log.outputs["Output"], name="each share of a backfill", parallelism=pods) as share:
                label_share = data_processing.make_labels(run=run, root=root, share=share)
                prepare(label_share, "label", name="label a share")
                if has_published:
                    score_share = data_processing.score(run=run, root=root, share=share).after(label_share)
                    prepare(score_share, "train-fm", name="score a share")
            labelled.after(score_share if has_published else label_share)
        with dsl.ParallelFor(
            checked.output, name="each foundation model", parallelism=config.platform.max_parallel
        ) as foundation_model:
            teacher = training.train_foundation(run=run, root=root, foundation_model=foundation_model).after(labelled)

        def foundations() -> dsl.Collected:  # KFP's compiler changes a Collected where it is used
            return dsl.Collected(teacher.outputs["Output"])

        joined = data_processing.join_examples(run=run, root=root, foundations=foundations())
        if pods > 1:
            with dsl.ParallelFor(log.outputs["Output"], name="each share of a join", parallelism=pods) as share:
                join_share = data_processing.join_examples(run=run, root=root, foundations=foundations(), share=share)
                prepare(join_share, "join", name="join a share")
            joined.after(join_share)
        compared = evaluation.compare(run=run, root=root).after(joined) if config.compare else None
        with dsl.ParallelFor(
            joined.outputs["Output"], name="each vertical model", parallelism=config.platform.max_parallel
        ) as vertical_model:
            student = training.train_vertical(run=run, root=root, vertical_model=vertical_model)
            sharded = deployment.make_bundle(
                run=run, root=root, vertical_model=vertical_model, vertical=student.outputs["Output"]
            )

        def verticals() -> dsl.Collected:
            return dsl.Collected(student.outputs["Output"])

        def bundles() -> dsl.Collected:
            return dsl.Collected(sharded.outputs["Output"])

        judged = evaluation.judge(run=run, root=root, verticals=verticals())
        judgements = judged.outputs["Output"]
        registered = deployment.register(
            root=root, foundations=foundations(), verticals=verticals(), bundles=bundles(), judgements=judgements
        )
        tested = evaluation.smoke_test(root=root, bundles=bundles())
        reported = evaluation.report(
            run=run,
            root=root,
            foundations=foundations(),
            verticals=verticals(),
            bundles=bundles(),
            registrations=registered.output,
            smoke_test=tested.output,
            **({"comparison": compared.outputs["Output"]} if compared else {}),
        )
        with dsl.If(deploy == True, name="if deploy"):  # noqa: E712  # KFP compiles the comparison
            deployed = deployment.deploy(
                run=run,
                root=root,
                registrations=registered.output,
                judgements=judgements,
            ).after(reported)
        steps: dict[Step, dsl.PipelineTask] = {
            "check": checked, "ingest": log, "label": labelled, "train-fm": teacher, "join": joined,
            "train-vm": student, "bundle": sharded, "judge": judged, "register": registered, "smoke-test": tested,
            "report": reported, "deploy": deployed,
        }  # fmt: skip
        if compared:
            steps["compare"] = compared
        for step, task in steps.items():
            prepare(task, step, only_follows=step == "train-fm" and only_follows)

    return pipeline


def _prepare(
    task: dsl.PipelineTask,
    step: Step,
    *,
    platform: PlatformConfig,
    image: str,
    name: str = "",
    only_follows: bool = False,
) -> None:
    """Give a task its pod; a step that only follows TrainJobs requests less than its limits."""
    task.set_display_name(name or step)
    task.set_container_image(image)
    task.set_caching_options(enable_caching=False)
    wanted = platform.of(step)
    requested_m, requested_mib = wanted.cpu_request_m, wanted.memory_mib
    if only_follows:
        requested_m, requested_mib = min(requested_m, FOLLOWER.cpu_request_m), min(requested_mib, FOLLOWER.memory_mib)
    task.set_cpu_request(f"{requested_m}m").set_cpu_limit(f"{wanted.cpu_limit_m}m")
    task.set_memory_request(f"{requested_mib}Mi").set_memory_limit(f"{wanted.memory_mib}Mi")
    if step == "check":  # it fails at once, without retries
        kubernetes.set_timeout(task, CHECK_TIMEOUT_S)
    else:
        kubernetes.set_timeout(task, platform.timeout_s)
        if platform.retries:
            task.set_retry(platform.retries, backoff_duration=f"{platform.backoff_s}s", backoff_factor=2.0)
    for variable, value in (COMPUTE_ENVIRONMENT | {IMAGE: image}).items():
        task.set_env_variable(variable, value)
    kubernetes.use_field_path_as_env(task, PIPELINE_RUN, RUN_ID)
    # Optional: without them a step has the environment of its image.
    kubernetes.use_config_map_as_env(task, platform.config_map, {name: name for name in ENDPOINTS}, optional=True)
    kubernetes.use_secret_as_env(task, platform.secret, {name: name for name in CREDENTIALS}, optional=True)
    for label, value in platform.node_selector.items():
        kubernetes.add_node_selector(task, label_key=label, label_value=value)
    for toleration in platform.tolerations:
        kubernetes.add_toleration(
            task,
            key=toleration.key or None,
            operator=toleration.operator,
            value=toleration.value or None,
            effect=toleration.effect or None,
        )
    if platform.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(platform.image_pull_secrets))
