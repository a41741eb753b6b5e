from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0006_adapter"),
    ]

    operations = [
        migrations.AddField(
            model_name="hostedmodel",
            name="speculation",
            field=models.CharField(
                choices=[("auto", "Where it pays"), ("ngram", "Always"), ("off", "Off")],
                default="auto",
                help_text="Guessing tokens from the text so far: faster where an answer repeats it, and never another answer.",
                max_length=10,
                verbose_name="speculation",
            ),
        ),
    ]
