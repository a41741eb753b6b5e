import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import apps.registry.validators


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0005_quantization_and_gguf"),
    ]

    operations = [
        migrations.AddField(
            model_name="hostedmodel",
            name="max_loras",
            field=models.PositiveSmallIntegerField(
                default=8, help_text="LoRA adapters that each replica keeps loaded.", verbose_name="max adapters"
            ),
        ),
        migrations.CreateModel(
            name="Adapter",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "name",
                    models.CharField(
                        help_text="What clients put into “model”. Slashes are allowed.",
                        max_length=200,
                        unique=True,
                        validators=[apps.registry.validators.validate_model_name],
                        verbose_name="name",
                    ),
                ),
                (
                    "source",
                    models.CharField(
                        help_text="A hub id, or a folder on the worker's machine, with the files that peft saves.",
                        max_length=500,
                        validators=[apps.registry.validators.validate_adapter_source],
                        verbose_name="source",
                    ),
                ),
                ("revision", models.CharField(blank=True, max_length=100, verbose_name="revision")),
                ("enabled", models.BooleanField(default=True, verbose_name="enabled")),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False, verbose_name="created"),
                ),
                (
                    "hosted_model",
                    models.ForeignKey(
                        help_text="The model it was trained for.",
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="adapters",
                        to="registry.hostedmodel",
                        verbose_name="model",
                    ),
                ),
            ],
            options={
                "verbose_name": "adapter",
                "verbose_name_plural": "adapters",
                "ordering": ["name"],
            },
        ),
    ]
