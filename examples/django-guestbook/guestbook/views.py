import os

from django import forms
from django.shortcuts import redirect, render

from . import jobs
from .models import Entry


class EntryForm(forms.ModelForm):
    class Meta:
        model = Entry
        fields = ["name", "text"]


def book(request):
    form = EntryForm(request.POST or None)
    if form.is_valid():
        jobs.put(form.save())
        return redirect("/")
    environment = os.environ.get("FLYLOFT_ENV", "nowhere in particular")
    return render(request, "book.html", {"form": form, "entries": Entry.objects.all()[:50], "environment": environment})
