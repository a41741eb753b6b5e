from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0007_speculation"),
    ]

    operations = [
        migrations.AddField(
            model_name="hostedmodel",
            name="batch_invariant",
            field=models.BooleanField(
                default=False,
                help_text="The same request gets the same tokens alone and in any batch, in bf16 too. Slower; CPUs only.",
                verbose_name="batch-invariant",
            ),
        ),
    ]
