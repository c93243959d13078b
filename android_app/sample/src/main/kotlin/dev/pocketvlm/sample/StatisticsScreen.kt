package dev.pocketvlm.sample

import android.content.Context
import android.text.format.Formatter
import android.view.LayoutInflater
import android.view.View
import android.widget.LinearLayout
import android.widget.TextView
import dev.pocketvlm.Stats

/** What the model and its newest answer cost. */
internal class StatisticsScreen(private val root: View) {
    private val context: Context = root.context
    private val rows: LinearLayout = root.find(R.id.statistics_rows)

    fun show(conversation: Conversation) {
        rows.removeAllViews()
        val model = conversation.model
        val budget = conversation.chat.value.budget
        add(R.string.stat_model, "${model.info.name}, ${size(model.info.bytes)}")
        add(R.string.stat_backend, model.backend.toString())
        add(R.string.stat_predicted, size(model.info.predictedMemoryBytes))
        add(R.string.stat_context, context.getString(R.string.stat_context_value, budget.used, budget.capacity))
        val stats = conversation.lastStats ?: return add(R.string.stat_last_answer, context.getString(R.string.stat_no_answer))
        add(R.string.stat_load, seconds(stats.loadSeconds))
        if (stats.peakMemoryBytes > 0) add(R.string.stat_peak, size(stats.peakMemoryBytes))
        showAnswer(stats)
    }

    private fun showAnswer(stats: Stats) {
        add(R.string.stat_preprocess, seconds(stats.preprocessSeconds))
        if (stats.imageTokens > 0) {
            val parts = listOf(stats.encodeSeconds, stats.encodeWaitSeconds).map { number(context, it) }
            add(R.string.stat_encode, context.getString(R.string.stat_encode_value, parts[0], parts[1]))
        }
        add(R.string.stat_reused, tokens(stats.reusedTokens))
        add(R.string.stat_prefill, rate(stats.prefillTokens, stats.prefillSeconds, stats.prefillTokensPerSecond))
        add(R.string.stat_first, seconds(stats.timeToFirstTokenSeconds))
        add(R.string.stat_decode, rate(stats.decodeTokens, stats.decodeSeconds, stats.decodeTokensPerSecond))
    }

    private fun add(name: Int, value: String) {
        val row = LayoutInflater.from(context).inflate(R.layout.item_statistic, rows, false)
        row.find<TextView>(R.id.statistic_name).setText(name)
        row.find<TextView>(R.id.statistic_value).text = value
        rows.addView(row)
    }

    private fun rate(count: Int, seconds: Double, perSecond: Double): String =
        context.getString(R.string.stat_rate, tokens(count), number(context, seconds), number(context, perSecond))

    private fun tokens(count: Int): String = context.resources.getQuantityString(R.plurals.tokens, count, count)

    private fun seconds(value: Double): String = context.getString(R.string.stat_seconds, number(context, value))

    private fun size(bytes: Long): String = Formatter.formatShortFileSize(context, bytes)
}
