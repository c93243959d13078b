package dev.pocketvlm.sample

import android.app.Application
import android.net.Uri
import dev.pocketvlm.LoadStep
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.android.open
import dev.pocketvlm.store.BundleSource
import dev.pocketvlm.store.FetchProgress
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import java.io.File
import java.io.FileNotFoundException

/** What the app is doing; the activity shows it. */
internal sealed class Stage {
    /** A bundle is chosen from [found], imported or downloaded; null until it is known what there is. */
    class Choosing(val found: List<Found>?) : Stage()

    class Importing(val name: String) : Stage()

    /** [progress] is null until the server has answered. */
    class Fetching(val progress: FetchProgress?, val isPaused: Boolean) : Stage()

    class Opening(val name: String, val step: LoadStep) : Stage()

    class Chatting(val conversation: Conversation) : Stage()
}

/** The model and all that happens to it. Its functions are called on the main thread and return at once. */
internal class ModelHolder(private val application: Application) {
    val bundles = Bundles(application)
    val readAloud = ReadAloud(application) { problem.value = it }
    val stage: StateFlow<Stage> get() = stages
    val problem = MutableStateFlow<Problem?>(null)

    private val scope: CoroutineScope = MainScope()
    private val stages = MutableStateFlow<Stage>(Stage.Choosing(null))
    private val kept = KeptChat(File(application.filesDir, "chat"))
    private var work: Job? = null
    private var again: () -> Unit = {}
    private var isStarted = false
    private var shared: Uri? = null

    val conversation: Conversation? get() = (stages.value as? Stage.Chatting)?.conversation

    /** Opens the last bundle, or the only one; does nothing where that was done. */
    fun start() {
        if (isStarted) return
        isStarted = true
        if (bundles.opening) {
            bundles.opening = false
            choose()
            problem.value = application.problem(R.string.problem_ended)
            return
        }
        val last = bundles.last
        if (last != null) open(last) else choose(opensOnlyOne = true)
    }

    /** Closes the model and shows what can be opened. */
    fun choose(opensOnlyOne: Boolean = false) {
        closeModel()
        stages.value = Stage.Choosing(null)
        replaceWork({ choose() }) {
            val found = withContext(Dispatchers.IO) { bundles.find() }
            if (opensOnlyOne && found.size == 1) open(found[0].directory) else stages.value = Stage.Choosing(found)
        }
    }

    fun open(directory: File) {
        closeModel()
        if (bundles.last != directory) kept.delete() // another model's conversation
        stages.value = Stage.Opening(directory.name, LoadStep.MANIFEST)
        replaceWork({ open(directory) }) {
            bundles.opening = true
            try {
                val model = PocketVlm.open(application, directory) { step ->
                    scope.launch { if (stages.value is Stage.Opening) stages.value = Stage.Opening(directory.name, step) }
                }
                val conversation = Conversation(application, scope, model, kept, readAloud) { problem.value = it }
                conversation.restore()
                bundles.last = directory
                stages.value = Stage.Chatting(conversation)
                shared?.let(conversation::attach)
                shared = null
            } finally {
                bundles.opening = false
            }
        }
    }

    /** Adds a picture to the next question; one that another app shares before a model is open waits for it. */
    fun attach(uri: Uri) {
        val open = conversation
        if (open == null) shared = uri else open.attach(uri)
    }

    /** Installs the bundle in a .zip that another app gives, and opens it. */
    fun import(uri: Uri, name: String) {
        stages.value = Stage.Importing(name)
        replaceWork({ import(uri, name) }) {
            val installed = withContext(Dispatchers.IO) {
                val open = { application.contentResolver.openInputStream(uri) ?: throw FileNotFoundException(name) }
                ZippedBundle { open().buffered() }.use { bundles.store.assemble(it, it.digest) }
            }
            open(installed.directory)
        }
    }

    /** Downloads a bundle and opens it; what is there of it from an earlier time is kept. */
    fun download(address: String, digest: String, allowHttp: Boolean = false) {
        stages.value = Stage.Fetching(null, isPaused = false)
        replaceWork({ download(address, digest, allowHttp) }) {
            bundles.store.fetch(BundleSource(address.trim(), allowHttp = allowHttp), digest.trim()).collect { progress ->
                stages.value = Stage.Fetching(progress, isPaused = false)
                progress.installed?.let { open(it.directory) }
            }
        }
    }

    fun pause() {
        val fetching = stages.value as? Stage.Fetching ?: return
        work?.cancel()
        stages.value = Stage.Fetching(fetching.progress, isPaused = true)
    }

    /** Does again what failed or was paused. */
    fun tryAgain() {
        problem.value = null
        again()
    }

    fun delete(found: Found) {
        replaceWork({ choose() }) {
            withContext(Dispatchers.IO) { found.storeName?.let { bundles.store.delete(it) } }
            choose()
        }
    }

    private fun closeModel() {
        val open = conversation ?: return
        stages.value = Stage.Choosing(null)
        open.close()
    }

    private fun replaceWork(repeat: () -> Unit, block: suspend () -> Unit) {
        work?.cancel()
        again = repeat
        problem.value = null
        work = scope.launch {
            try {
                block()
            } catch (error: CancellationException) {
                throw error
            } catch (error: Exception) {
                failed(error)
            }
        }
    }

    /** A download can go on from where it is; everything else begins with the choice. */
    private suspend fun failed(error: Exception) {
        val fetching = stages.value as? Stage.Fetching
        val explained = application.explain(error)
        if (fetching != null && explained.remedy == Remedy.TRY_AGAIN) {
            stages.value = Stage.Fetching(fetching.progress, isPaused = true)
        } else {
            stages.value = Stage.Choosing(withContext(Dispatchers.IO) { bundles.find() })
        }
        problem.value = explained
    }
}
