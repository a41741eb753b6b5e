import django.core.validators
from django.db import migrations, models


def make_size(name: str, **options: str) -> models.PositiveSmallIntegerField:
    return models.PositiveSmallIntegerField(
        default=1, validators=[django.core.validators.MinValueValidator(1)], verbose_name=name, **options
    )


class Migration(migrations.Migration):
    dependencies = [("registry", "0009_upstreams")]

    operations = [
        migrations.AlterField(
            model_name="hostedmodel",
            name="engine",
            field=models.CharField(
                choices=[
                    ("own", "Atrium engine"),
                    ("upstream", "Upstream: a server elsewhere"),
                    ("vllm", "vLLM"),
                    ("sglang", "SGLang"),
                    ("tgi", "TGI"),
                ],
                default="own",
                max_length=20,
                verbose_name="engine",
            ),
        ),
        migrations.AddField(
            model_name="hostedmodel",
            name="model_impl",
            field=models.CharField(
                choices=[
                    ("auto", "As the engine chooses"),
                    ("transformers", "transformers"),
                    ("native", "The engine's own"),
                ],
                default="auto",
                help_text="For vLLM and SGLang: their own code of the model, or transformers'.",
                max_length=20,
                verbose_name="implementation",
            ),
        ),
        migrations.AddField(
            model_name="hostedmodel",
            name="tensor_parallel_size",
            field=make_size(
                "tensor parallel size", help_text="For vLLM, SGLang and TGI: over how many GPUs one replica runs."
            ),
        ),
        migrations.AddField(
            model_name="hostedmodel", name="pipeline_parallel_size", field=make_size("pipeline parallel size")
        ),
        migrations.AddField(model_name="hostedmodel", name="data_parallel_size", field=make_size("data parallel size")),
    ]
