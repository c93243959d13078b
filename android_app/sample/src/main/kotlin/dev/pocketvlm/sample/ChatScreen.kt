package dev.pocketvlm.sample

import android.content.ClipData
import android.content.ClipboardManager
import android.content.Context
import android.os.Build
import android.text.Editable
import android.text.TextWatcher
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.ImageButton
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView
import android.widget.Toast
import dev.pocketvlm.Chat
import dev.pocketvlm.Encoding
import dev.pocketvlm.FinishReason
import dev.pocketvlm.Message
import dev.pocketvlm.Role
import dev.pocketvlm.Stats
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.collectLatest
import kotlinx.coroutines.launch

/** The conversation: what was said, the answer that is being written, and where the next question is put together. */
internal class ChatScreen(private val root: View, private val scope: CoroutineScope, private val actions: Actions) {
    /** What needs the activity. */
    interface Actions {
        fun choosePicture()

        fun takePicture()

        fun speak()

        /** Shows [Conversation.opened] large. */
        fun openPicture()

        fun openStatistics()
    }

    val question: EditText = root.find(R.id.question)

    private val context: Context = root.context
    private val inflater = LayoutInflater.from(context)
    private val transcript: LinearLayout = root.find(R.id.transcript)
    private val scroll: ScrollView = root.find(R.id.transcript_scroll)
    private val attachments: LinearLayout = root.find(R.id.attachments)
    private val ask: ImageButton = root.find(R.id.ask)
    private val states = ArrayList<Job>()
    private var conversation: Conversation? = null
    private var rows = emptyList<Any>()

    init {
        root.find<View>(R.id.choose_picture).setOnClickListener { actions.choosePicture() }
        root.find<View>(R.id.take_picture).setOnClickListener { actions.takePicture() }
        root.find<View>(R.id.speak).setOnClickListener { actions.speak() }
        ask.setOnClickListener { askOrStop() }
        question.setOnEditorActionListener { _, _, _ -> true.also { conversation?.let { if (!it.isBusy) askOrStop() } } }
        question.addTextChangedListener(object : TextWatcher {
            override fun beforeTextChanged(text: CharSequence?, start: Int, count: Int, after: Int) = Unit

            override fun onTextChanged(text: CharSequence?, start: Int, before: Int, count: Int) = Unit

            override fun afterTextChanged(text: Editable?) = showAsk()
        })
    }

    /** Shows it until the coroutine is cancelled. */
    suspend fun show(shown: Conversation): Unit = coroutineScope {
        conversation = shown
        val sees = shown.model.info.seesImages
        for (id in listOf(R.id.choose_picture, R.id.take_picture)) {
            root.find<View>(id).showIf(sees)
        }
        question.setHint(if (sees) R.string.question else R.string.question_text_only)
        root.find<TextView>(R.id.empty_chat).setText(if (sees) R.string.empty_chat else R.string.empty_chat_text_only)
        rows = emptyList()
        transcript.removeAllViews()
        launch { shown.chat.collectLatest { chat -> chat.messages.collect { showTurns(shown, chat) } } }
        launch { shown.running.collect { showTurns(shown, shown.chat.value) } }
        launch { shown.pending.collect { showPending(it) } }
        launch { shown.sentences.collect { root.find<TextView>(R.id.announcement).text = it } }
        launch { shown.returned.collect { text -> text?.let { takeBack(shown, it) } } }
    }

    fun showListening(isListening: Boolean) {
        val button = root.find<ImageButton>(R.id.speak)
        button.isActivated = isListening
        button.setImageResource(if (isListening) R.drawable.ic_stop else R.drawable.ic_microphone)
        button.contentDescription = context.getString(if (isListening) R.string.speak_stop else R.string.speak)
    }

    private fun askOrStop() {
        val shown = conversation ?: return
        if (shown.isBusy) return shown.stop()
        shown.ask(question.text.toString().trim())
        if (shown.isBusy) question.text.clear()
    }

    private fun takeBack(from: Conversation, text: String) {
        if (question.text.isEmpty()) question.setTextAt(text)
        from.returned.value = null
    }

    private fun showAsk() {
        val isBusy = conversation?.isBusy == true
        ask.setImageResource(if (isBusy) R.drawable.ic_stop else R.drawable.ic_ask)
        ask.contentDescription = context.getString(if (isBusy) R.string.stop else R.string.ask)
        ask.isEnabled = isBusy || question.text.isNotBlank()
        ask.alpha = if (ask.isEnabled) 1f else DISABLED
    }

    // --- What was said ------------------------------------------------------------------------------------------------

    /** Rows that stay the same keep their views: an answer that grows changes one text. */
    private fun showTurns(shown: Conversation, chat: Chat) {
        val running = shown.running.value
        val messages = chat.messages.value
        val said = if (running == null) messages else messages.take(running.behind)
        val wanted = said + listOfNotNull(running?.question?.let { RunningQuestion }, running?.let { RunningAnswer })
        val same = rows.zip(wanted).takeWhile { (old, new) -> old === new }.size
        val wasAtEnd = !scroll.canScrollVertically(1)
        // The last answer among those that stay had the button to answer again, or gets it now.
        val from = minOf(same, maxOf(0, minOf(rows.size, wanted.size) - 1)).takeIf { rows.size != wanted.size } ?: same
        transcript.removeViews(from, transcript.childCount - from)
        for (index in from until wanted.size) transcript.addView(row(shown, wanted, index))
        rows = wanted
        if (running != null) showRunning(transcript.getChildAt(wanted.size - 1), running)
        root.find<View>(R.id.empty_chat).showIf(wanted.isEmpty())
        showAsk()
        if (wasAtEnd || from < wanted.size) scroll.post { scroll.scrollTo(0, transcript.bottom) }
    }

    private fun row(shown: Conversation, wanted: List<Any>, index: Int): View {
        val message = wanted[index]
        val running = shown.running.value
        return when {
            message === RunningQuestion -> questionRow(checkNotNull(running?.question), checkNotNull(running).pictures)
            message === RunningAnswer -> inflate(R.layout.item_answer)
            (message as Message).role == Role.USER -> questionRow(message.text, shown.picturesOf(index, message))
            else -> answerRow(message, shown.statsOf(index), isLast = index == wanted.size - 1)
        }
    }

    private fun questionRow(text: String, pictures: List<SeenPicture>): View = inflate(R.layout.item_question).apply {
        find<TextView>(R.id.message_text).apply {
            this.text = text
            contentDescription = context.getString(R.string.you_said, text)
        }
        val row = find<LinearLayout>(R.id.message_pictures)
        row.showIf(pictures.isNotEmpty())
        for (picture in pictures) {
            val side = dp(PICTURE_DP)
            row.addView(TilesView(context, null).also { show(it, picture) }, LinearLayout.LayoutParams(side, side))
        }
    }

    private fun answerRow(message: Message, stats: Stats?, isLast: Boolean): View = inflate(R.layout.item_answer).apply {
        find<TextView>(R.id.message_text).apply {
            text = message.text
            contentDescription = context.getString(R.string.model_said, message.text)
        }
        showEnd(this, stats?.finishReason)
        find<TextView>(R.id.message_line).text = stats?.let(::line)
        find<View>(R.id.message_copy).setOnClickListener { copy(message.text) }
        find<View>(R.id.message_again).apply {
            showIf(isLast)
            setOnClickListener { conversation?.regenerate() }
        }
    }

    private fun showEnd(row: View, reason: FinishReason?) {
        val text = when (reason) {
            FinishReason.LENGTH, FinishReason.DEADLINE -> R.string.ended_length
            FinishReason.KV_LENGTH -> R.string.ended_memory
            FinishReason.CANCELLED -> R.string.ended_cancelled
            FinishReason.STOP, null -> return
        }
        row.find<TextView>(R.id.message_end).apply {
            setText(text)
            visibility = View.VISIBLE
        }
    }

    private fun showRunning(row: View, running: Running) {
        row.find<View>(R.id.message_actions).visibility = View.GONE
        row.find<TextView>(R.id.message_end).apply {
            setText(if (running.text.isEmpty()) R.string.thinking else R.string.answering)
            visibility = View.VISIBLE
        }
        row.find<TextView>(R.id.message_text).apply {
            text = running.text
            showIf(running.text.isNotEmpty())
        }
    }

    private fun line(stats: Stats): String {
        val tokens = context.resources.getQuantityString(R.plurals.tokens, stats.generatedTokens, stats.generatedTokens)
        return if (stats.decodeTokens == 0) tokens
        else context.getString(R.string.answer_line, tokens, number(context, stats.decodeTokensPerSecond))
    }

    private fun copy(text: String) {
        val clipboard = context.getSystemService(ClipboardManager::class.java)
        clipboard?.setPrimaryClip(ClipData.newPlainText(context.getString(R.string.app_name), text))
        // From Android 13 on the system says so itself.
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.TIRAMISU) {
            Toast.makeText(context, R.string.copied, Toast.LENGTH_SHORT).show()
        }
    }

    // --- Pictures that wait for a question ----------------------------------------------------------------------------

    private fun showPending(pending: List<Pending>) {
        states.forEach { it.cancel() }
        states.clear()
        attachments.removeAllViews()
        root.find<View>(R.id.attachment_scroll).showIf(pending.isNotEmpty())
        for (one in pending) attachments.addView(attachment(one))
    }

    private fun attachment(pending: Pending): View {
        val view = inflater.inflate(R.layout.item_attachment, attachments, false)
        show(view.find(R.id.attachment_picture), pending.picture)
        val tokens = pending.attachment.tiling.tokens
        view.find<TextView>(R.id.attachment_tokens).text =
            context.resources.getQuantityString(R.plurals.tokens, tokens, tokens)
        view.find<View>(R.id.attachment_remove).setOnClickListener { pending.attachment.remove() }
        val state = view.find<TextView>(R.id.attachment_state)
        states.add(scope.launch { pending.attachment.state.collect { state.text = describe(it) } })
        return view
    }

    private fun describe(encoding: Encoding): String = when (encoding) {
        is Encoding.Waiting, is Encoding.Removed -> context.getString(R.string.encoding_waiting)
        is Encoding.Running -> context.getString(R.string.encoding_running, encoding.tilesDone, encoding.tiles)
        is Encoding.Ready -> context.getString(R.string.encoding_ready, number(context, encoding.seconds))
        is Encoding.Failed -> context.getString(R.string.encoding_failed)
    }

    private fun show(view: TilesView, picture: SeenPicture) {
        view.picture = picture
        view.contentDescription = picture.describe(context)
        view.setOnClickListener {
            conversation?.opened = picture
            actions.openPicture()
        }
    }

    private fun inflate(layout: Int): View = inflater.inflate(layout, transcript, false)

    private fun dp(count: Int): Int = (count * context.resources.displayMetrics.density).toInt()

    private object RunningQuestion

    private object RunningAnswer

    private companion object {
        const val DISABLED = 0.4f
        const val PICTURE_DP = 96
    }
}
