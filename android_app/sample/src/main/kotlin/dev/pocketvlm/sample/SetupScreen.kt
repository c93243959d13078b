package dev.pocketvlm.sample

import android.content.Context
import android.text.format.Formatter
import android.view.LayoutInflater
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import dev.pocketvlm.LoadStep
import dev.pocketvlm.store.FetchProgress

/** Until a model is open: choose, import or download a bundle, and how far that is. */
internal class SetupScreen(private val root: View, private val holder: ModelHolder, private val pickZip: () -> Unit) {
    private val context: Context = root.context
    private val address: EditText = root.find(R.id.download_address)
    private val digest: EditText = root.find(R.id.download_digest)
    private val found: LinearLayout = root.find(R.id.found)

    init {
        if (address.text.isEmpty()) address.setText(R.string.bundle_address)
        if (digest.text.isEmpty()) digest.setText(R.string.bundle_digest)
        root.find<View>(R.id.import_zip).setOnClickListener { pickZip() }
        root.find<View>(R.id.search_again).setOnClickListener { holder.choose() }
        root.find<View>(R.id.work_cancel).setOnClickListener { holder.choose() }
        root.find<View>(R.id.download).setOnClickListener {
            holder.download(address.text.toString(), digest.text.toString())
        }
    }

    fun show(stage: Stage) {
        val choosing = stage as? Stage.Choosing
        root.find<View>(R.id.setup_choice).showIf(choosing != null)
        root.find<View>(R.id.setup_work).showIf(choosing == null)
        when (stage) {
            is Stage.Choosing -> showChoice(stage)
            is Stage.Importing -> showWork(R.string.import_zip, context.getString(R.string.importing, stage.name), null)
            is Stage.Fetching -> showFetching(stage)
            is Stage.Opening -> showWork(R.string.opening, "${stage.name}: ${context.getString(describe(stage.step))}", null)
            is Stage.Chatting -> Unit
        }
        root.find<View>(R.id.work_pause).showIf(stage is Stage.Fetching)
    }

    private fun showChoice(stage: Stage.Choosing) {
        val bundles = stage.found.orEmpty()
        title(if (bundles.isEmpty()) R.string.no_bundle else R.string.choose_model)
        val pushed = holder.bundles.pushed?.path.orEmpty()
        root.find<TextView>(R.id.no_bundle_what).text = context.getString(R.string.no_bundle_what, pushed)
        root.find<View>(R.id.found_title).showIf(bundles.isNotEmpty())
        found.removeAllViews()
        for (bundle in bundles) found.addView(row(bundle))
    }

    private fun row(bundle: Found): View {
        val row = LayoutInflater.from(context).inflate(R.layout.item_bundle, found, false)
        row.find<Button>(R.id.bundle_open).apply {
            text = context.getString(R.string.open_bundle, bundle.name, size(bundle.bytes))
            setOnClickListener { holder.open(bundle.directory) }
        }
        row.find<View>(R.id.bundle_delete).apply {
            showIf(bundle.storeName != null)
            contentDescription = context.getString(R.string.delete_bundle, bundle.name)
            setOnClickListener { holder.delete(bundle) }
        }
        return row
    }

    private fun showFetching(stage: Stage.Fetching) {
        val progress = stage.progress
        val known = progress != null && progress.bytesTotal > 0
        val text = when {
            !known -> context.getString(R.string.download_starting)
            else -> context.getString(
                if (stage.isPaused) R.string.download_paused else R.string.download_progress,
                size(checkNotNull(progress).bytesDone),
                size(progress.bytesTotal),
            )
        }
        showWork(R.string.download, text, progress?.takeIf { known })
        root.find<Button>(R.id.work_pause).apply {
            setText(if (stage.isPaused) R.string.resume else R.string.pause)
            setOnClickListener { if (stage.isPaused) holder.tryAgain() else holder.pause() }
        }
    }

    private fun showWork(title: Int, text: String, progress: FetchProgress?) {
        title(title)
        val label = root.find<TextView>(R.id.work_text)
        if (label.text.toString() != text) label.text = text // a screen reader says each change
        root.find<ProgressBar>(R.id.work_progress).apply {
            isIndeterminate = progress == null
            if (progress != null) this.progress = (max * progress.bytesDone / progress.bytesTotal).toInt()
        }
    }

    private fun title(text: Int) = root.find<TextView>(R.id.setup_title).setText(text)

    private fun describe(step: LoadStep): Int = when (step) {
        LoadStep.MANIFEST -> R.string.step_manifest
        LoadStep.FILES -> R.string.step_files
        LoadStep.TOKENIZER -> R.string.step_tokenizer
        LoadStep.VISION -> R.string.step_vision
        LoadStep.DECODER -> R.string.step_decoder
        LoadStep.READY -> R.string.step_ready
    }

    private fun size(bytes: Long): String = Formatter.formatShortFileSize(context, bytes)
}
