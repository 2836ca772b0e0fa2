"""JupyterLab for this course: `jupyter lab --config=lab/config.py notebooks/00_start_here.ipynb`.

Links between README and chapters work, as the whole checkout is JupyterLab's root. What JupyterLab itself decides by
settings stands in overrides.json, what it looks like in custom.css.
"""

from pathlib import Path

from ipykernel.ipkernel import IPythonKernel
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

LAB = Path(__file__).resolve().parent
KERNEL = KernelSpecManager().get_kernel_spec("python3")
AS_JUPYTERLAB_WRITES = {
    "kernelspec": {"name": "python3", "display_name": KERNEL.display_name, "language": KERNEL.language},
    "language_info": IPythonKernel.language_info,
}
AS_THE_COURSE_KEEPS = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}


class CourseFiles(AsyncLargeFileManager):
    """Files in which a notebook changes only where somebody changes it.

    JupyterLab notes the exact version of Python in each notebook that it opens, and takes it for changed. So it gets
    the notebook with this note, and the note is left out of the file.
    """

    async def get(self, path, content=True, *args, **kwargs):
        """Return a file as JupyterLab expects it."""
        model = await super().get(path, content, *args, **kwargs)
        for notebook in python_notebook(model):
            notebook["metadata"].update(AS_JUPYTERLAB_WRITES)
        return model

    async def save(self, model, path=""):
        """Write a file as the course keeps it."""
        for notebook in python_notebook(model):
            notebook["metadata"].update(AS_THE_COURSE_KEEPS)
            for cell in notebook["cells"]:
                cell["metadata"].pop("collapsed", None)  # says again what `outputs_hidden` says
        return await super().save(model, path)


def python_notebook(model: dict) -> list[dict]:
    """Return the notebook in what the server reads or writes, if it is one, of Python, and its content is there."""
    notebook = model.get("content") if model.get("type") == "notebook" else None
    return [notebook] if notebook and notebook["metadata"].get("kernelspec", {}).get("name") == "python3" else []


c = get_config()  # noqa: F821 (Jupyter calls this file with it)
c.ServerApp.root_dir = str(LAB.parent)
c.ServerApp.contents_manager_class = CourseFiles
c.ServerApp.tornado_settings = {"static_custom_path": [str(LAB)]}
c.LabApp.app_settings_dir = str(LAB)
c.LabApp.custom_css = True
